"""Dialogues to imitate: judged trajectories and the gym's items with their correct answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from k2core.chat.template import encode_dialogue
from k2core.gym.base import Environment
from k2core.storage import Split, read_lines, split_of
from k2core.training.dialogues import Dialogue

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

Trajectory = dict[str, Any]
HELDOUT_SHARE = 0.1


def read_trajectories(file: Path) -> list[Trajectory]:
    """The dialogues of `accepted.jsonl` or `rejected.jsonl`.

    Raises:
        StorageError: missing, torn, or a line without `task_id`, `tools` or `messages`.
    """
    return read_lines(file, columns=("task_id", "tools", "messages"))


def is_heldout(trajectory: Trajectory) -> bool:
    """Whether the trajectory's task belongs to the tenth that no training stage sees; a twin is where its task is."""
    return split_of(trajectory["task_id"].partition("+")[0], HELDOUT_SHARE) == "heldout"


def split_trajectories(trajectories: list[Trajectory], split: Split) -> list[Trajectory]:
    """Those of `split`, in order; all dialogues about one task are on one side."""
    return [trajectory for trajectory in trajectories if is_heldout(trajectory) == (split == "heldout")]


def some(trajectories: list[Trajectory], count: int, seed: int) -> list[Trajectory]:
    """At most `count` of them, a random choice that depends on the seed alone."""
    chosen = Random(f"{seed}/trajectories").sample(range(len(trajectories)), min(count, len(trajectories)))
    return [trajectories[number] for number in sorted(chosen)]


def encode_trajectories(
    tokenizer: Tokenizer, trajectories: list[Trajectory], *, seed: int, json_share: float, repeats: int = 1
) -> list[Dialogue]:
    """Each trajectory `repeats` times; each copy declares its tools in JSON with chance `json_share`, else in
    TypeScript (K2 Appendix B has both in the training data)."""
    dialogues = []
    for trajectory in trajectories:
        for copy in range(repeats):
            json_format = Random(f"{seed}/format/{trajectory['id']}/{copy}").random() < json_share
            dialogues.append(
                Dialogue(
                    *encode_dialogue(
                        tokenizer,
                        trajectory["messages"],
                        tools=trajectory["tools"],
                        tool_format="json" if json_format else "typescript",
                    )
                )
            )
    return dialogues


def encode_gym(
    tokenizer: Tokenizer, environments: Mapping[str, Environment], counts: Mapping[str, int], split: Split, seed: int
) -> list[Dialogue]:
    """The first `counts[name]` items of each environment with their correct answers."""
    items = (
        environments[name].item(seed, split, index) for name, count in sorted(counts.items()) for index in range(count)
    )
    return [Dialogue(*encode_dialogue(tokenizer, [*item.messages, item.gold], tools=item.tools)) for item in items]
