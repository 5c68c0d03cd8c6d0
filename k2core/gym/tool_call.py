"""First replies to tool tasks: the right calls, the right question, or a refusal, judged by what they bring about.

Items are the tasks of `data/tasks`, whose train and held-out halves have different names and values (and partly
tools); the seed plays no part. The reward is 1 if the judge passes the reply, else 0: a share of checks would pay
for calls that change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from k2core.agentic.tasks.judge import judge_completion
from k2core.agentic.tasks.task import Task, first_prompt, gold_reply
from k2core.agentic.tools.specs import ToolSpec, read_tools
from k2core.gym.base import Environment, Item, Split
from k2core.gym.coding import Coding
from k2core.gym.judging import NO_MODELS, Models
from k2core.gym.registry import text_environments
from k2core.gym.settings import NO_DATA_SETS, GymConfig
from k2core.gym.swe import Swe
from k2core.storage import read_lines


@dataclass(frozen=True)
class ToolCall:
    """Tool tasks of a folder, with the specs of their tools."""

    tools: dict[str, ToolSpec]
    tasks: dict[Split, list[Task]]
    name: str = "tool_call"
    max_new_tokens: int = 96

    @classmethod
    def load(cls, folder: Path) -> ToolCall:
        """Read `tasks.jsonl` and `tools.jsonl`.

        Raises:
            StorageError: one is missing or torn.
        """
        rows = read_lines(folder / "tasks.jsonl")
        return cls(
            read_tools(folder / "tools.jsonl"),
            {split: [row for row in rows if row["split"] == split] for split in ("train", "heldout")},
        )

    def size(self, split: Split) -> int:
        """The number of tasks."""
        return len(self.tasks[split])

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Task number `index` of the split."""
        task = self.tasks[split][index]
        return Item(
            key=f"{self.name}/{task['id']}",
            messages=first_prompt(task),
            gold=gold_reply(task),
            tools=[self.tools[name].wire() for name in task["tools"]],
            meta={"task": task, "gold_calls": task["first_turn"]["calls"]},
        )

    def score(self, item: Item, completion: str) -> float:
        """1 if the world after the reply's calls, or its words where no call is due, are as the task wants."""
        return float(judge_completion(item.meta["task"], self.tools, completion).passed)


def all_environments(
    tasks: Path, programs: Path, gym: GymConfig = NO_DATA_SETS, models: Models = NO_MODELS
) -> dict[str, Environment]:
    """The environments that need no files, the tool tasks of folder `tasks`, and what folder `programs` has to run.

    They are here so that stages without tool tasks do not depend on the code of agentic data.
    """
    made: list[Environment] = [ToolCall.load(tasks)]
    made += [each for each in (Coding.load(programs), Swe.load(programs)) if each.size("train") or each.size("heldout")]
    return {**text_environments(gym, models), **{environment.name: environment for environment in made}}
