"""Agents and rubric-based tasks over the tools (K2 §3.1).

Held-out tasks, which evaluation asks and no training stage sees, have held-out names and values, and in part
held-out tools. Tasks on real MCP servers have a file of their own: they cannot be simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt

from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

if TYPE_CHECKING:
    from k2core.agentic.tasks.richer import RicherMaker
    from k2core.agentic.tasks.task import Task
    from k2core.agentic.tools.specs import ToolSpec
    from k2core.storage import Split

SECTION = "tasks"
ATTEMPTS = 20
"""Tasks that are drawn until one is proved."""


class Richer(Section):
    """How many tasks of the richer kinds, over worlds and stores (docs/tasks.md)."""

    train: int = Field(ge=0, description="tasks for training")
    heldout: int = Field(ge=0, description="tasks for evaluation")
    mix: dict[str, float] = Field(
        description="weight of each kind: steps, branch, allowed, forbidden, rights, insist, mind, correct, stop, store"
    )
    calls: list[float] = Field(
        min_length=1, max_length=7, description="of the kind steps, weights of chains of 2, 3, ... and at most 8 calls"
    )


class Params(Section):
    """How many tasks of which kinds."""

    train: int = Field(ge=1, description="tasks for training")
    heldout: int = Field(ge=1, description="tasks for evaluation")
    mix: dict[str, float] = Field(description="weight of each kind: single, parallel, chain, ask, none")
    twins: float = Field(
        ge=0,
        le=1,
        description="share of the training tasks of the kind single that come again with one change, which forbids the "
        "call: the fitting tool exchanged for one that does not fit, or a value left out",
    )
    texts: int = Field(ge=0, description="English documents that lend the tasks names and words; 0: all are made up")
    real: dict[str, NonNegativeInt] = Field(description="tasks on real MCP servers, for training, by server")
    richer: Richer = Field(description="tasks of many calls, rules, people who change their mind, and stores")
    declared_share: float = Field(
        ge=0, le=1, description="share of tasks that also offer a tool of tools.catalogue or tools.declarations"
    )


def run(params: Params, compute: Compute, tools: Path, documents: Path, out: Path, job: Job) -> Metrics:
    """Write `tasks.jsonl`, `real_tasks.jsonl` and the tools they use.

    The gold path of a task passes the judge, and wrong ones fail, or the stage ends; a task of the richer kinds is
    drawn again until this holds.
    """
    from k2core.agentic.catalogue.entries import entries_in
    from k2core.agentic.dialogues.proof import fault
    from k2core.agentic.tasks.judge import judge_completion
    from k2core.agentic.tasks.plans import KINDS
    from k2core.agentic.tasks.real_domain import real_domains
    from k2core.agentic.tasks.richer import RicherMaker
    from k2core.agentic.tasks.task import TaskMaker, gold_reply
    from k2core.agentic.tools.specs import read_tools, write_tools
    from k2core.chat.template import reply_text
    from k2core.storage import write_lines
    from k2core.synthesis.values import Values

    unknown = sorted(set(params.mix) - set(KINDS))
    if unknown:
        raise StageError(f"tasks.mix: no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if not any(weight > 0 for weight in params.mix.values()) or min(params.mix.values()) < 0:
        raise StageError("tasks.mix: give at least one kind a weight above zero and none a weight below it")
    specs = read_tools(tools / "tools.jsonl")
    values = Values(_texts(documents, params.texts))
    maker = TaskMaker(specs, params.mix, compute.seed, params.declared_share, values)
    job.say(f"{params.train} training and {params.heldout} held-out tasks over {len(specs)} tools")
    made = [maker.task("train", i) for i in range(params.train)]
    made += [maker.task("heldout", i) for i in range(params.heldout)]
    made += maker.twins(params.train, params.twins)
    proposed = entries_in(tools / "catalogue")
    richer = RicherMaker(specs, params.richer.mix, params.richer.calls, compute.seed, values, proposed)
    job.say(
        f"{params.richer.train} training and {params.richer.heldout} held-out tasks of the richer kinds, each proved"
    )
    unproved = Counter[str]()
    wanted: dict[Split, int] = {"train": params.richer.train, "heldout": params.richer.heldout}
    for split, count in wanted.items():
        made += [_proved(richer, split, number, specs, unproved) for number in range(count)]
    for task in made:
        if task["kind"] in KINDS and (reason := fault(task, specs)):
            raise StageError(
                f"task {task['id']}: its path '{reason}' gets the wrong verdict; mend its kind in plans.py"
            )
        verdict = judge_completion(task, specs, reply_text(gold_reply(task)))
        if not verdict.passed:
            raise StageError(f"task {task['id']}: its own solution fails {verdict.checks}; mend its kind in tasks.py")
    unknown = sorted(set(params.real) - set(real_domains()))
    if unknown:
        raise StageError(f"tasks.real: no tasks on {', '.join(unknown)}; there are {', '.join(real_domains())}")
    real = [real_domains()[name].task(compute.seed, i) for name, count in params.real.items() for i in range(count)]
    missing = sorted({name for task in real for name in task["tools"]} - set(specs))
    if missing:
        raise StageError(f"{tools}: no tools {', '.join(missing)}; add their server to tools.servers")
    used = {name for task in [*made, *real] for name in task["tools"]}
    out.mkdir()
    write_lines(out / "tasks.jsonl", made)
    write_lines(out / "real_tasks.jsonl", real)
    write_tools(out / "tools.jsonl", [tool for name, tool in specs.items() if name in used])
    figures = {"tasks": float(len(made)), "tools_used": float(len(used))}
    figures |= {f"real/{name}": float(count) for name, count in params.real.items()}
    figures |= {f"unproved/{what}": float(count) for what, count in sorted(unproved.items())}
    counts = {name: Counter(task[name] for task in made) for name in ("split", "kind", "difficulty")}
    counts["calls"] = Counter(len(task["gold_calls"]) for task in made)
    for name, found in counts.items():
        figures |= {f"{name}/{value}": float(count) for value, count in sorted(found.items())}
    distinct = len({(task["instruction"], *task["tools"]) for task in made})
    return figures | {"distinct_share": distinct / len(made)}


def _proved(
    maker: RicherMaker, split: Split, number: int, specs: Mapping[str, ToolSpec], unproved: Counter[str]
) -> Task:
    """Task `number` of the richer kinds, drawn until it is proved; `unproved` counts those before."""
    from k2core.agentic.dialogues.proof import fault

    for attempt in range(ATTEMPTS):
        task = maker.task(split, number, attempt)
        if not (reason := fault(task, specs)):
            return task
        unproved[f"{task['kind']}/{reason}"] += 1
    raise StageError(
        f"task {task['id']}: no proof of {ATTEMPTS} tasks of kind {task['kind']} ({reason}); mend that kind"
    )


def _texts(documents: Path, count: int) -> list[str]:
    """The texts of `count` English documents."""
    from k2core.corpus.documents import sample
    from k2core.storage import read_table

    rows = [
        row for table in sorted(documents.glob("*.parquet")) for row in read_table(table, ["id", "text", "language"])
    ]
    english = [row for row in rows if row["language"] == "en"]
    return [row["text"] for row in sample(english, count, lambda row: f"tasks/{row['id']}")]


if __name__ == "__main__":
    main(run, SECTION)
