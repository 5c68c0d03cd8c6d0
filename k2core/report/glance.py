"""The run at a glance: its graph, the models' answers to a few prompts, and what the trainings cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from k2core.recipe.reading import read_yaml
from k2core.report.results import PRETRAIN, phases_of

Figures = Mapping[str, Mapping[str, float]]
ANSWERS = 5
"""Prompts whose answers are shown, each of another environment as far as there are so many."""
K2_ACTIVATED = 32.6e9
"""K2's activated parameters (arXiv 2507.20534, table 2)."""
K2_PHASES = {"constant learning rate": 10e12, "decay": 5.5e12, "anneal": 400e9, "long context": 60e9}
"""Tokens of K2's pre-training (the same, section 2.5)."""
H800_RATE = 6 * 37e9 * 14.8e12 / (2.664e6 * 3600)
"""Operations per second and H800 of DeepSeek-V3's pre-training: 14.8e12 tokens, 37e9 activated parameters, 2.664e6
hours (arXiv 2412.19437, table 1). K2's report names no hours."""
FLOPS = 6
"""Operations per activated parameter and token: 2 forward, 4 backward."""
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


def cost(figures: Figures) -> dict[str, Any] | None:
    """Tokens and operations of each training, and of K2's; None where the size of the model is not known.

    Operations are `FLOPS` per activated parameter and token. RL's sampling is not among them. Hours are an H800's, at
    `H800_RATE`.
    """
    activated = figures.get("export", {}).get("export/activated_parameters")
    if not activated:
        return None
    pretraining = [*(f"{PRETRAIN}{phase}" for phase in phases_of(figures)), "extend_context"]
    rows: list[dict[str, Any]] = []
    before = 0.0
    for stage in [*pretraining, "sft", "critic"]:
        seen = figures.get(stage, {}).get("train/tokens_seen")
        if seen is None:
            continue
        tokens = seen
        if stage in pretraining:  # phases go on counting
            tokens, before = seen - before, seen
        rows.append({"stage": stage, "tokens": tokens, "flops": FLOPS * activated * tokens})
    total = sum(row["flops"] for row in rows)
    whole: list[dict[str, Any]] = [
        {"stage": phase, "tokens": tokens, "flops": FLOPS * K2_ACTIVATED * tokens,
         "hours": FLOPS * K2_ACTIVATED * tokens / H800_RATE / 3600}
        for phase, tokens in K2_PHASES.items()
    ]  # fmt: skip
    k2 = {key: sum(row[key] for row in whole) for key in ("tokens", "flops", "hours")}
    ratio = k2["flops"] / total if total else 0.0
    return {
        "rows": rows, "activated": activated, "flops": total, "k2_rows": whole, "k2": k2, "ratio": ratio,
        "rate": H800_RATE,
    }  # fmt: skip
