"""The figures that a pipeline run is judged by."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml
from mlflow.utils.validation import _validate_metric_name
from workspace import ROOT

from k2core.tracking.headlines import HIGHER, LOWER, SECONDS, headlines, table, verdict


def write(root: Path, stage: str, figures: dict[str, float], locked: bool = True) -> None:
    """As a run of `stage` leaves it: its figures, and their file in the lock."""
    (root / "metrics").mkdir(exist_ok=True)
    file, lock = root / "metrics" / f"{stage}.json", root / "dvc.lock"
    file.write_text(json.dumps(figures))
    if locked:
        stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
        lock.write_text(yaml.safe_dump({"stages": stages | {stage: {"outs": [{"path": f"metrics/{file.name}"}]}}}))


def test_figures_are_named_by_what_is_better_and_those_missing_are_left_out(tmp_path: Path) -> None:
    recipe = tmp_path / "params.yaml"
    assert headlines(tmp_path, recipe) == {}
    recipe.write_text("pretrain: {first: {}, stable: {}}\n")
    write(tmp_path, "evaluate-rl", {"tasks/pass_rate": 0.6, "tasks/greedy": 0.7})
    write(tmp_path, "pretrain-stable", {"heldout/bits_per_byte": 2.2})
    write(tmp_path, "evaluate-sft", {"tasks/pass_rate": 0.9}, locked=False)  # which no run has made
    assert headlines(tmp_path, recipe) == {
        "RL tasks passed: higher is better": 0.6,
        "bits per byte 2 stable: lower is better": 2.2,
    }
    assert list(headlines(tmp_path, recipe, without={"evaluate@rl"})) == ["bits per byte 2 stable: lower is better"]


def test_mlflow_takes_the_names() -> None:
    names = [*(line.name for line in table(ROOT / "params.yaml")), SECONDS]
    assert "bits per byte 5 YaRN: lower is better" in names
    for name in names:
        _validate_metric_name(name)
    assert len(set(names)) == len(names)


def test_a_change_is_better_or_worse_by_the_figures_direction() -> None:
    assert verdict(f"x: {HIGHER}", 0.5, 0.6) == verdict(f"x: {LOWER}", 0.6, 0.5) == "better"
    assert verdict(f"x: {HIGHER}", 0.6, 0.5) == verdict(f"x: {LOWER}", 0.5, 0.6) == "worse"
    assert verdict(f"x: {LOWER}", 0.0, 0.0) == "same"


def test_mlflow_is_not_imported() -> None:
    code = "import sys, k2core.tracking.headlines, k2core.tracking.recipe; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
