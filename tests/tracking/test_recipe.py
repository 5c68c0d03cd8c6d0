"""What a run's recipe is called, and what was changed in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.tracking.recipe import RecipeChange, against_base

LAPTOP = "rl: {tau: 0.1, steps: 80}\nsft: {epochs: 3}\ntools: {kinds: [a, b]}\n"
CLUSTER = "rl: {tau: 0.1, steps: 8000}\nsft: {epochs: 1}\ntools: {kinds: [a, b, c]}\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "laptop.yaml").write_text(LAPTOP)
    (tmp_path / "recipes" / "cluster.yaml").write_text(CLUSTER)
    (tmp_path / "params.yaml").write_text(LAPTOP)
    return tmp_path


def test_the_base_is_the_recipe_with_the_fewest_differences(workspace: Path) -> None:
    assert against_base(workspace) == RecipeChange("laptop", {})
    (workspace / "params.yaml").write_text(CLUSTER.replace("tau: 0.1", "tau: 0.2").replace("epochs: 1", "lr: 1"))
    change = against_base(workspace)
    assert change == RecipeChange(
        "cluster", {"rl.tau": ("0.1", "0.2"), "sft.lr": ("absent", "1"), "sft.epochs": ("1", "absent")}
    )
    assert change.title == "cluster, rl.tau=0.2, sft.lr=1, +1 more"


def test_what_cannot_be_read_is_called_so(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("rl: [")
    assert against_base(workspace).title == "unreadable recipe"
    (workspace / "params.yaml").write_text(LAPTOP)
    (workspace / "recipes" / "mine.yaml").write_text("rl: [")
    assert against_base(workspace).title == "laptop"


def test_long_values_do_not_make_a_name() -> None:
    assert RecipeChange("laptop", {"ingest.files": ("[]", "x" * 99)}).title == "laptop, ingest.files changed"
