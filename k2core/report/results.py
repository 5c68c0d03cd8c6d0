"""What the stages left behind, read once and checked: figures, curves, texts."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2core.storage import StorageError, read_lines, read_table

PRETRAIN = "pretrain-"
MODELS = ("base", "sft", "rl")
Curve = dict[str, list[float | None]]


def phases_of(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The pre-training phases that left figures (stage → figures), in the order in which they ran."""
    seen = {stage: own["train/tokens_seen"] for stage, own in figures.items() if stage.startswith(PRETRAIN)}
    return [stage.removeprefix(PRETRAIN) for stage in sorted(seen, key=seen.__getitem__)]


@dataclass(frozen=True)
class Results:
    """Everything the page shows."""

    figures: dict[str, dict[str, float]]
    """Stage (``pretrain-stable``) → its figures."""
    curves: dict[str, Curve]
    """Plot name (``sft``) → column → values, None where a step has none."""
    funnel: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    accepted: list[dict[str, Any]]
    rejected: list[dict[str, Any]]
    scorecards: dict[str, dict[str, dict[str, float]]]
    items: dict[str, dict[str, dict[str, list[float]]]]
    """Model → score → environment → its value of each item."""
    samples: dict[str, list[dict[str, Any]]]
    tools: list[dict[str, Any]]
    critic: list[dict[str, Any]]
    """Held-out pairs of replies with the critic's verdict on them (`stages/critic.py`)."""
    rollouts: list[dict[str, Any]]
    """Held-out prompts with sampled responses before and after RL (`stages/rl.py`)."""
    repairs: list[dict[str, Any]]
    """Repository tasks (`k2core/swe/task.py`)."""


def read_results(
    figures: Path, plots: Path, curated: Path, rephrased: Path, trajectories: Path, evals: Path, tools: Path,
    critic: Path, rollouts: Path, programs: Path,
) -> Results:  # fmt: skip
    """Read the outputs of all stages.

    Raises:
        StorageError: a file that the page needs is missing or malformed.
    """
    return Results(
        figures={path.stem: read_json(path) for path in sorted(figures.glob("*.json"))},
        curves=read_curves(plots),
        funnel=read_json(curated / "funnel.json"),
        verdicts=read_table(rephrased / "verdicts.parquet"),
        accepted=read_lines(trajectories / "accepted.jsonl"),
        rejected=read_lines(trajectories / "rejected.jsonl"),
        scorecards={name: read_json(evals / name / "scorecard.json")["scores"] for name in MODELS},
        items={name: read_json(evals / name / "items.json") for name in MODELS},
        samples={name: read_lines(evals / name / "samples.jsonl") for name in MODELS},
        tools=read_lines(tools / "tools.jsonl"),
        critic=read_lines(critic),
        rollouts=read_lines(rollouts),
        repairs=read_lines(programs / "repairs.jsonl"),
    )


def read_curves(plots: Path) -> dict[str, Curve]:
    """Plot name → column → values, for every CSV in `plots`.

    Raises:
        StorageError: one has no rows.
    """
    return {path.stem: _curve(path) for path in sorted(plots.glob("*.csv"))}


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        StorageError: it is missing or malformed.
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise StorageError(f"{path}: not a readable JSON file ({error}); run the stage that makes it") from None


def _curve(path: Path) -> Curve:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise StorageError(f"{path}: a plot without rows; its stage logged nothing (log_every above the steps?)")
    return {name: [float(row[name]) if row[name] else None for row in rows] for name in rows[0]}
