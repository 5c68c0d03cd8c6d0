"""An LLM as a judge: of what rules cannot decide, and of what they can, so that the two can be compared.

It reads the rubric in words and the dialogue, gives a reason, then two verdicts. `done` is what the rules decide;
`clear` they cannot: whether each sentence of the agent is clear, polite and true to the results. A dialogue that passed
by the rules is dropped if it is not clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from k2core.agentic.dialogues.agents import told
from k2core.agentic.tasks.task import Task
from k2core.recipe.reading import read_yaml
from k2core.storage import parse_json

if TYPE_CHECKING:
    from k2core.llm.client import LLM

YES_NO = {"enum": ["yes", "no"]}
SCHEMA = {
    "type": "object", "required": ["reason", "done", "clear"],
    "properties": {"reason": {"type": "string", "maxLength": 160}, "done": YES_NO, "clear": YES_NO},
}  # fmt: skip
MAX_TOKENS = 90


def sample(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """About `count` trajectories, half of them accepted by the rules, evenly spread."""
    found = []
    for passed in (True, False):
        of = [row for row in rows if row["verdict"]["passed"] == passed]
        found += of[:: max(1, 2 * len(of) // count)][: (count + passed) // 2]
    return found


def judged(llm: LLM, rows: Sequence[dict[str, Any]], tasks: dict[str, Task], seed: int) -> dict[str, float]:
    """Judge the trajectories `rows`, whose verdicts get the check `clear`; the agreement with the rules.

    An answer that is no verdict counts as none, and changes nothing.
    """
    agreed: dict[bool, list[bool]] = {True: [], False: []}
    for row in rows:
        text = llm.complete(_prompt(tasks[row["task_id"]], row), max_tokens=MAX_TOKENS, temperature=0.0, seed=seed,
                            schema=SCHEMA)  # fmt: skip
        try:
            found = parse_json(text)
            done, clear = found["done"] == "yes", found["clear"] == "yes"
        except (ValueError, KeyError, TypeError):
            continue
        by_rules = row["verdict"]["passed"]
        agreed[by_rules].append(done == by_rules)
        row["verdict"] |= {"passed": by_rules and clear, "checks": row["verdict"]["checks"] | {"clear": clear}}
    every = agreed[True] + agreed[False]
    parts = {"agreement": every, "agreement/accepted": agreed[True], "agreement/rejected": agreed[False]}
    shares = {f"llm_judge/{name}": fmean(values) for name, values in parts.items() if values}
    return {"llm_judge/asked": float(len(rows)), "llm_judge/verdicts": float(len(every))} | shares


@cache
def _prompts() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("judge_prompts.yaml"))


def _prompt(task: Task, row: dict[str, Any]) -> list[dict[str, str]]:
    prompts = _prompts()
    wanted = [prompts["checks"][check["check"]].format(**check) for check in task["rubric"]
              if check["check"] in prompts["checks"]]  # fmt: skip
    lines = [task["system"], *map(told, row["messages"][1:]), prompts["asks"], *wanted]
    shown = "\n".join(lines).replace('"', "")  # a grammar of JSON ends a string at a quote
    return [{"role": "system", "content": prompts["rule"]}, {"role": "user", "content": shown}]
