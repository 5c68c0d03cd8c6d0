"""Rewards of a handed-over folder's prompts: our verifiers, asked with a response's token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from k2core.chat.tokenizer import Tokenizer
from k2core.gym.tool_call import all_environments
from k2core.recipe import validate
from k2core.rl.handover.prompts import PROGRAMS, SETTINGS, TASKS, TOKENIZER, Settings
from k2core.storage import StorageError, parse_json


class Rewards:
    """The verifiers of a folder.

    Raises:
        StorageError: a file of the folder is missing or torn.
    """

    def __init__(self, folder: Path) -> None:
        try:
            content = parse_json((folder / SETTINGS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise StorageError(f"{folder / SETTINGS}: {error}; write it with `python -m k2core.rl.handover`") from None
        self.settings = validate(Settings, content, str(folder / SETTINGS))
        self.settings.sandbox.apply()
        self.tokenizer = Tokenizer.load(folder / TOKENIZER)
        self.environments = all_environments(folder / TASKS, folder / PROGRAMS, self.settings.gym)

    def score(self, about: Mapping[str, Any], tokens: Sequence[int]) -> float:
        """The reward that our own loop gives (`k2core/inference/rollouts.py`), its budget of tokens included.

        Args:
            about: the row's `extra_info`.
            tokens: of the response, with the one that ended it.
        """
        environment = self.environments[about["environment"]]
        ended = bool(tokens) and tokens[-1] == self.tokenizer.im_end_id
        if not ended or len(tokens) > environment.max_new_tokens:
            return self.settings.overlong_reward
        item = environment.item(int(about["seed"]), about["split"], int(about["index"]))
        return environment.score(item, self.tokenizer.decode_reply(tokens))


@cache
def rewards_of(folder: Path) -> Rewards:
    """The verifiers of `folder`, read once in a process."""
    return Rewards(folder)
