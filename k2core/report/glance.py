"""The run at a glance: its graph, the models' answers to a few prompts, and what the trainings cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from k2core.model.counts import activated, training_flops
from k2core.planning.jobs import Jobs
from k2core.planning.plan import Plan
from k2core.recipe.reading import read_yaml
from k2core.report.results import PRETRAIN

Figures = Mapping[str, Mapping[str, float]]
ANSWERS = 5
"""Prompts whose answers are shown, each of another environment as far as there are so many."""
_FIELD = re.compile(r"\$\{([\w.]+)\}")


def read_graph(path: Path) -> dict[str, list[str]]:
    """Stage → the stages whose outputs it reads, of a `dvc.yaml`."""
    stages = dict(_expanded(read_yaml(path)["stages"]))
    made = {out: name for name, stage in stages.items() for out in _paths(stage, "outs", "metrics")}
    return {
        name: sorted(
            {maker for dep in _paths(stage, "deps") for out, maker in made.items() if _same(dep, out)} - {name}
        )
        for name, stage in stages.items()
    }


def _same(dep: str, out: str) -> bool:
    """Whether one path is the other, or is below it."""
    one, other = Path(dep), Path(out)
    return one == other or one in other.parents or other in one.parents


def _expanded(stages: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Stages by name, those of `foreach` one by one."""
    for name, stage in stages.items():
        if "foreach" not in stage:
            yield name, stage
            continue
        each = stage["foreach"]
        for key, item in each.items() if isinstance(each, dict) else ((value, value) for value in each):
            fields = {f"item.{k}": v for k, v in item.items()} if isinstance(item, dict) else {"item": item}
            yield f"{name}@{key}", _filled(stage["do"], {"key": key, **fields})


def _filled(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {_filled(key, known): _filled(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, known) for item in value]
    return _FIELD.sub(lambda match: str(known.get(match[1], match[0])), value) if isinstance(value, str) else value


def _paths(stage: Mapping[str, Any], *kinds: str) -> list[str]:
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def some_answers(completions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first rows of each environment in turn, `ANSWERS` of them."""
    by_environment: dict[str, list[dict[str, Any]]] = {}
    for row in completions:
        by_environment.setdefault(row["environment"], []).append(row)
    longest = max(map(len, by_environment.values()), default=0)
    turns = [rows[turn] for turn in range(longest) for rows in by_environment.values() if turn < len(rows)]
    return turns[:ANSWERS]


def cost(figures: Figures, jobs: Jobs, k2: Plan) -> dict[str, Any]:
    """Tokens and operations of each training that has run, and what the planner says of K2's.

    RL's sampling and updates are not among them. Hours are of one of `k2`'s GPUs.

    Args:
        jobs: the trainings of the recipe that ran.
    """
    rows: list[dict[str, Any]] = []
    before = 0.0
    for job in (*jobs.pretraining, *jobs.post):
        pretraining = job in jobs.pretraining
        stage = job.name if job.name in figures else f"{PRETRAIN}{job.name}"
        seen = figures.get(stage, {}).get("train/tokens_seen")
        if seen is None:
            continue
        tokens = seen
        if pretraining:  # phases go on counting
            tokens, before = seen - before, seen
        rows.append({"stage": stage, "tokens": tokens, "flops": training_flops(jobs.model, job.context) * tokens})
    total = sum(row["flops"] for row in rows)
    whole: list[dict[str, Any]] = [
        {"stage": phase.job.name, "tokens": phase.job.tokens, "flops": phase.job.flops(k2.jobs.model) * phase.job.steps,
         "hours": phase.hours * k2.mesh.ranks}
        for phase in k2.phases
    ]  # fmt: skip
    summed = {key: sum(row[key] for row in whole) for key in ("tokens", "flops", "hours")}
    return {
        "rows": rows, "activated": activated(jobs.model), "flops": total, "k2_rows": whole, "k2": summed,
        "ratio": summed["flops"] / total if total else 0.0, "rate": summed["flops"] / summed["hours"] / 3600,
        "share": k2.cluster.share_of_peak, "source": k2.cluster.share_source,
    }  # fmt: skip
