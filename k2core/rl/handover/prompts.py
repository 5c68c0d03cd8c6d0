"""The folder that is handed over: prompts as Parquet in verl's schema, and all that their verifiers need.

verl and slime read the same file (columns `data_source`, `prompt`, `ability`, `reward_model`, `extra_info`; verl's
docs/preparation/prepare_data). Tools are declared by a system message named `tool_declare`, which K2's chat template
renders as it renders declared tools; so the prompts are those that our own RL samples for, token by token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.chat.special_tokens import DEFAULT_SYSTEM
from k2core.chat.tokenizer import Tokenizer
from k2core.chat.typescript import declare
from k2core.gym.base import Environment, Episodic, Item
from k2core.gym.registry import select
from k2core.gym.settings import GymConfig
from k2core.gym.tool_call import all_environments
from k2core.recipe import RecipeError, Section
from k2core.rl.config import RLConfig
from k2core.rl.handover.guide import guide
from k2core.sandbox.config import SandboxConfig
from k2core.storage import Split, write_json, write_table, write_text

FILES: dict[Split, str] = {"train": "train.parquet", "heldout": "heldout.parquet"}
SETTINGS, TASKS, PROGRAMS, TOKENIZER = "settings.json", "tasks", "programs", "tokenizer"
SPOKEN = {"role", "content", "name"}
"""Keys of a message that both frameworks hand to the chat template as they are."""


class Settings(Section):
    """What the verifiers need besides the files: kept in the folder as `settings.json`."""

    gym: GymConfig = Field(description="environments that the recipe names")
    sandbox: SandboxConfig = Field(description="where the code that models write runs")
    overlong_reward: float = Field(le=0, description="reward of a response that exceeds its environment's budget")


def write_handover(
    out: Path, config: RLConfig, *, model: Path, tasks: Path, programs: Path, heldout: int, gym: GymConfig,
    sandbox: SandboxConfig, seed: int,
) -> str:  # fmt: skip
    """Write the folder `out`; returns what is in it, in words.

    Args:
        config: its pool says which training items of which environments.
        model: the exported model whose tokenizer the frameworks use.
        heldout: held-out items of each of these environments.

    Raises:
        RecipeError: an environment of the pool is not there, or takes several turns.
        StorageError: `tasks`, `programs` or the model's tokenizer is missing or torn.
    """
    environments, pool = all_environments(tasks, programs, gym), config.pool
    try:
        select(environments, pool, "rl.pool")
    except ValueError as error:
        raise RecipeError(str(error)) from None
    several = [name for name in pool if isinstance(environments[name], Episodic)]
    if several:
        raise RecipeError(f"rl.pool: {', '.join(several)} takes several turns and cannot be handed over; leave it out")
    tokenizer = Tokenizer.load(model)
    out.mkdir(parents=True, exist_ok=True)
    counts = []
    for split, file in FILES.items():
        wanted = pool if split == "train" else dict.fromkeys(pool, heldout)
        number = write_table(out / file, _rows(environments, wanted, split, seed), _schema())
        counts.append(f"{number:,} prompts in {file}")
    for source, name in ((tasks, TASKS), (programs, PROGRAMS)):
        shutil.copytree(source, out / name, dirs_exist_ok=True)
    tokenizer.save(out / TOKENIZER)
    settings = Settings(gym=gym, sandbox=sandbox, overlong_reward=config.overlong_reward)
    write_json(out / SETTINGS, settings.model_dump(mode="json"))
    rows, longest = ", ".join(counts), max(environments[name].max_new_tokens for name in pool)
    write_text(out / "README.md", guide(config, rows, longest))
    return rows


def _rows(
    environments: Mapping[str, Environment], counts: Mapping[str, int], split: Split, seed: int
) -> Iterator[dict[str, Any]]:
    for name, count in sorted(counts.items()):
        for index in range(min(count, environments[name].size(split))):
            item = environments[name].item(seed, split, index)
            yield {
                "data_source": name,
                "prompt": spoken(item),
                "ability": name,
                "reward_model": {"style": "rule", "ground_truth": json.dumps(item.gold, ensure_ascii=False)},
                "extra_info": {"environment": name, "seed": seed, "split": split, "index": index},
            }


def spoken(item: Item) -> list[dict[str, str | None]]:
    """The item's prompt as messages alone, tools included.

    Raises:
        RecipeError: a message has more than a role, a name and a text.
    """
    messages = list(item.messages)
    if item.tools:
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": DEFAULT_SYSTEM})
        messages.insert(0, {"role": "system", "name": "tool_declare", "content": declare(item.tools)})
    odd = sorted({key for message in messages for key in message} - SPOKEN)
    if odd:
        raise RecipeError(f"item {item.key}: a message has {', '.join(odd)}, which cannot be handed over")
    return [{"role": m["role"], "content": m["content"], "name": m.get("name")} for m in messages]


def _schema() -> Any:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    message = pa.struct([("role", text), ("content", text), ("name", text)])
    return pa.schema([
        ("data_source", text), ("prompt", pa.list_(message)), ("ability", text),
        ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
        ("extra_info", pa.struct([("environment", text), ("seed", number), ("split", text), ("index", number)])),
    ])  # fmt: skip
