"""The recorder against a real MLflow store: what a user finds there after `dvc repro`, kills and faults."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from workspace import Workspace, make_workspace

from k2core.tracking.runs import PipelineRuns


def runs(toy: Workspace, state: str = "") -> list:
    client = MlflowClient(f"sqlite:///{toy.root / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("k2").experiment_id])
    return [run for run in found if not state or run.data.tags.get("k2.state") == state]


def wait_for_recorder(toy: Workspace) -> None:
    deadline = time.monotonic() + 60
    while toy.processes("k2core.tracking.recorder"):
        assert time.monotonic() < deadline, (toy.root / "logs" / "tracking.log").read_text()
        time.sleep(0.2)


def test_a_repro_is_a_pipeline_run_with_nested_stage_runs(toy: Workspace) -> None:
    toy.run("dvc", "repro")
    wait_for_recorder(toy)
    (parent,) = [run for run in runs(toy) if run.info.run_name == "pipeline"]
    stages = {run.info.run_name: run for run in runs(toy, "executed")}
    assert set(stages) == {"source", "branch@left", "branch@right", "join"}
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *stages.values()]} == {"FINISHED"}
    assert stages["source"].data.params["count/steps"] == "5"
    assert stages["source"].data.metrics["train/step"] == 4.0

    locked = yaml.safe_load(toy.lock())["stages"]["join"]
    expected = {(item["path"], item["md5"]) for item in locked["deps"] if item["path"].startswith("data")}
    by_context: dict[str, set] = {"input": set(), "output": set()}
    for item in stages["join"].inputs.dataset_inputs:
        by_context[item.tags[0].value].add((item.dataset.name, item.dataset.digest))
    assert by_context["input"] == expected
    assert by_context["output"] == {(item["path"], item["md5"]) for item in locked["outs"]}

    # One parameter of the last stage changes: the others are shown as skipped, linked to the run that made them.
    toy.edit("params.yaml", 'fail: ""', "fail: none")
    toy.run("dvc", "repro")
    wait_for_recorder(toy)
    skipped = {run.info.run_name: run for run in runs(toy, "skipped")}
    assert set(skipped) == {"source", "branch@left", "branch@right"}
    for name, run in skipped.items():
        assert run.data.tags["k2.produced_by"] == stages[name].info.run_id

    lineage = toy.run("python", "-m", "k2core.lineage", "data/join").stdout.splitlines()
    assert [line.split()[0] for line in lineage[1:-1]] == ["source", "branch@left", "branch@right", "join"]
    for line in lineage[1:-2]:
        assert stages[line.split()[0]].info.run_id[:8] in line
    assert stages["join"].info.run_id[:8] not in lineage[-2], "join has been made anew"
    assert "MLflow run" not in toy.run("python", "-m", "k2core.lineage", "data/join", "--no-mlflow").stdout


def test_the_machine_is_watched_while_a_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    pipeline = PipelineRuns(tmp_path, os.getpid())
    run_id = pipeline.start_stage({"stage": "source", "params": {}, "inputs": {}})
    deadline, metrics = time.monotonic() + 30, {}
    while "system/system_memory_usage_percentage" not in metrics:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        metrics = pipeline.client.get_run(run_id).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    pipeline.end_stage("source", run_id, "FINISHED", "")
    assert pipeline.client.get_run(run_id).info.status == "FINISHED"


def test_a_killed_stage_is_marked_and_continues_to_the_same_bytes(toy: Workspace, tmp_path: Path) -> None:
    (toy.root / "work").mkdir(exist_ok=True)
    (toy.root / "work" / "kill-me").write_text("right")
    killed = toy.run("dvc", "repro", check=False)
    assert killed.returncode != 0
    wait_for_recorder(toy)
    assert {run.info.run_name: run.info.status for run in runs(toy)} == {
        "pipeline": "KILLED", "source": "FINISHED", "branch@left": "FINISHED", "branch@right": "KILLED",
    }  # fmt: skip
    again = toy.run("dvc", "repro")
    assert "[branch@right] continues at 3" in again.stdout
    assert "Running stage 'source'" not in again.stdout

    undisturbed = make_workspace(tmp_path / "other", Path(__file__).parents[1] / "toy")
    undisturbed.env["K2_TRACKING"] = "off"
    undisturbed.run("dvc", "repro")
    assert toy.lock() == undisturbed.lock()
    undisturbed.run("dvc", "repro", "--force")
    assert toy.lock() == undisturbed.lock()
    assert not list((undisturbed.root / "work").glob("*/*")), "scratch is removed once outputs are published"


def test_a_dead_mlflow_costs_nothing_and_loses_nothing(toy: Workspace) -> None:
    toy.env |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    toy.run("dvc", "repro")
    wait_for_recorder(toy)
    assert (toy.root / "data" / "join").exists()
    (spool,) = (toy.root / "logs").glob("tracking-*.jsonl")
    assert "MLflow took no more records" in (toy.root / "logs" / "tracking.log").read_text()

    del toy.env["MLFLOW_TRACKING_URI"]
    toy.run("python", "-m", "k2core.tracking.recorder", "--replay", str(spool))
    assert {run.info.run_name for run in runs(toy, "executed")} == {"source", "branch@left", "branch@right", "join"}
    assert not spool.exists()


@pytest.mark.parametrize(("old", "new", "sentence"), [
    ("steps: 5", "steps: 0", "count.steps = 0: input should be greater than or equal to 1"),
    ("steps: 5", "step: 5", "count.step: unknown key; allowed here: steps, seconds_a_step"),
    ("steps: 5", "steps: many", "count.steps = 'many'"),
])  # fmt: skip
def test_a_bad_recipe_ends_in_a_sentence(toy: Workspace, old: str, new: str, sentence: str) -> None:
    toy.edit("params.yaml", old, new)
    failed = toy.run("python", "-m", "stages.count", "--out", "x", "--name", "a", check=False)
    assert failed.returncode == 1
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr
