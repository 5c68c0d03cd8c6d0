"""The figures that a pipeline run is judged by, from the stages' metrics files (MLflow is not imported)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path

from k2core.recipe import RecipeError, read_recipe
from k2core.tracking.lock import read_lock

HIGHER, LOWER = "higher is better", "lower is better"


@dataclass(frozen=True)
class Headline:
    """One figure: what a person reads, the stage whose metrics file has it, its key there, and which way is better."""

    label: str
    stage: str
    key: str
    better: str

    @property
    def name(self) -> str:
        """Name of the MLflow metric: the figure first, because tables cut names short, then which way is better."""
        return f"{self.label}: {self.better}"


BITS = "heldout/bits_per_byte"
# Pages sort by name, capitals first: the final model is at the top, and numbers keep the order of the phases.
OF_MODELS = tuple(
    Headline(f"{model} {label}", f"evaluate@{model.lower()}", key, better)
    for model in ("RL", "SFT")
    for label, key, better in (
        ("tasks passed", "tasks/pass_rate", HIGHER),
        ("calls exact", "tool_calls/exact", HIGHER),
        ("calls valid by schema", "tool_calls/valid_when_due", HIGHER),
        ("bits per byte", BITS, LOWER),
    )
)
SECONDS = f"seconds of all stages: {LOWER}"
"""MLflow only: what the present outputs took to make, in whichever run each was made."""
STAGE_SECONDS = "stage/seconds"
"""MLflow only: what a stage's run took."""


def metrics_file(stage: str) -> str:
    """File name of a stage's figures in `metrics/`: `evaluate@rl` writes `evaluate-rl.json`."""
    return f"{stage.replace('@', '-')}.json"


def table(recipe: Path) -> tuple[Headline, ...]:
    """The figures of the models, and of each phase of pre-training that the recipe has, if it can be read."""
    try:
        phases = read_recipe(recipe).get("pretrain")
    except RecipeError:  # its stages say what is wrong with it
        phases = None
    named = {str(phase): f"pretrain@{phase}" for phase in phases or ()} | {"YaRN": "extend_context"}
    lines = [
        Headline(f"bits per byte {number} {name}", stage, BITS, LOWER)
        for number, (name, stage) in enumerate(named.items(), 1)
    ]
    return (*OF_MODELS, *lines)


def headlines(root: Path, recipe: Path, without: Collection[str] = ()) -> dict[str, float]:
    """Metric name → value, in the table's order; figures whose file or key is missing are left out.

    Args:
        root: where `dvc.lock` and the folder `metrics` are.
        without: stages whose metrics files belong to an earlier state of the workspace.
    """
    return select(metrics_of(root), recipe, without)


def metrics_of(root: Path) -> dict[str, dict[str, float]]:
    """File name → figures of the files in `metrics/` that a stage in `dvc.lock` has made: others may lie there too."""
    made = (root / out for stage in read_lock(root).values() for out in stage.outs if Path(out).parts[0] == "metrics")
    return {path.name: json.loads(path.read_text()) for path in sorted(made) if path.exists()}


def select(files: Mapping[str, Mapping[str, float]], recipe: Path, without: Collection[str] = ()) -> dict[str, float]:
    """`headlines` of metrics files that have been read: file name → figures."""
    return {
        line.name: float(files[metrics_file(line.stage)][line.key])
        for line in table(recipe)
        if line.stage not in without and line.key in files.get(metrics_file(line.stage), {})
    }


def verdict(name: str, before: float, after: float) -> str:
    """`better`, `worse` or `same`: what the change of metric `name` means. Chance is not judged: see the report."""
    if isclose(before, after, rel_tol=1e-6):
        return "same"
    return "better" if (after > before) == name.endswith(HIGHER) else "worse"
