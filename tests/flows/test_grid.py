"""A grid of DVC experiments from the page: the workspace stays as it is, MLflow has a run for each point."""

from __future__ import annotations

import os

import pytest
from pages import Pages

from flows.grid import points
from k2core.recipe import RecipeError


def test_points_are_every_combination() -> None:
    assert points(["rl.tau=0.1,0.2", "tools.servers=[time],[time, git]"]) == [
        ("rl.tau=0.1", 'tools.servers=["time"]'), ("rl.tau=0.1", 'tools.servers=["time", "git"]'),
        ("rl.tau=0.2", 'tools.servers=["time"]'), ("rl.tau=0.2", 'tools.servers=["time", "git"]'),
    ]  # fmt: skip
    assert points(["rl.tau=1e-4,1e-5"]) == [("rl.tau=0.0001",), ("rl.tau=1.0e-05",)]
    for bad, sentence in (("rl.tau", "is not an axis"), ("rl.tau=", "is not an axis"), ("rl.tau=[1", "not valid YAML")):
        with pytest.raises(RecipeError, match=sentence):
            points([bad])


def test_a_grid_runs_experiments_and_compares_them(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (pages.toy.root / "params.yaml").read_text(), pages.toy.contents("data")
    run = pages.start_with("grid", {"changes": ["count.steps=3,4"]})
    pages.await_state(run, "COMPLETED", 150)
    assert ((pages.toy.root / "params.yaml").read_text(), pages.toy.contents("data")) == before
    listed = pages.toy.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert len(listed) == 2

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{pages.toy.root / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("k2").experiment_id], "tags.`k2.grid` != ''")
    assert {point.data.params.get("count.steps") for point in found} == {"3", "4"}
    assert {point.info.status for point in found} == {"FINISHED"}
    pages.toy.run("dvc", "exp", "apply", listed[0])
    assert (pages.toy.root / "data" / "join").exists()
    assert os.listdir(pages.toy.root / "work" / "grid")
