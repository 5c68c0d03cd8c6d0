"""The recorder against a real MLflow store: what a user finds there after `dvc repro`, kills and faults."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient
from workspace import Workspace, make_workspace


def runs(toy: Workspace, state: str = "") -> list:
    client = MlflowClient(f"sqlite:///{toy.root / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("k2").experiment_id])
    return [run for run in found if not state or run.data.tags.get("k2.state") == state]


def pipelines(toy: Workspace) -> list:
    """Pipeline runs, latest first."""
    return [run for run in runs(toy) if run.data.tags.get("k2.kind") == "pipeline"]


def headline(toy: Workspace, before: str, after: str) -> None:
    """The last stage's figure becomes one of the real chain's, in the file of the real chain's stage."""
    toy.edit("stages/join.py", before, after)


FIGURE, HALF, MORE = '"characters": float(len(out.read_text()))', '"tasks/pass_rate": 0.5', '"tasks/pass_rate": 0.6'


def wait_for_recorder(toy: Workspace) -> None:
    deadline = time.monotonic() + 60
    while toy.processes("k2core.tracking.recorder"):
        assert time.monotonic() < deadline, (toy.root / "logs" / "tracking.log").read_text()
        time.sleep(0.2)


def test_a_repro_is_a_pipeline_run_with_nested_stage_runs(toy: Workspace) -> None:
    headline(toy, FIGURE, HALF)
    toy.edit("dvc.yaml", "metrics/join.json", "metrics/evaluate-rl.json")
    (toy.root / "metrics").mkdir()
    (toy.root / "metrics" / "evaluate-sft.json").write_text('{"tasks/pass_rate": 0.9}')  # no run has made it
    toy.run("dvc", "repro")
    wait_for_recorder(toy)
    (parent,) = pipelines(toy)
    assert parent.info.run_name == "toy: 4 ran"
    assert parent.data.params == {"recipe": "toy"}
    assert parent.data.metrics["RL tasks passed: higher is better"] == 0.5
    assert not any(name.startswith("SFT") for name in parent.data.metrics)
    assert parent.data.metrics["seconds of all stages: lower is better"] > 0
    stages = {run.info.run_name: run for run in runs(toy, "executed")}
    assert set(stages) == {"source", "branch@left", "branch@right", "join"}
    assert {run.data.tags["mlflow.parentRunId"] for run in stages.values()} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *stages.values()]} == {"FINISHED"}
    assert stages["source"].data.params["count/steps"] == "5"
    for private in ("mlflow.db", "logs"):
        assert not (toy.root / private).stat().st_mode & 0o077, private
    assert (toy.root / "data" / "join").stat().st_mode & 0o044, "outputs are nobody's secret"
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
    headline(toy, HALF, MORE)
    toy.run("dvc", "repro")
    wait_for_recorder(toy)
    after = pipelines(toy)[0]
    assert after.info.run_name == "toy, join.fail=none: 1 ran, 3 cached"
    assert after.data.params == {"recipe": "toy", "join.fail": "none"}
    note = after.data.tags["mlflow.note.content"]
    assert f"Against [toy: 4 ran](#/experiments/1/runs/{parent.info.run_id}" in note
    assert "**better** RL tasks passed" in note
    skipped = {run.info.run_name: run for run in runs(toy, "skipped")}
    assert set(skipped) == {"source", "branch@left", "branch@right"}
    for name, run in skipped.items():
        assert run.data.tags["k2.produced_by"] == stages[name].info.run_id
        assert stages[name].info.run_id in run.data.tags["mlflow.note.content"]
        assert run.data.metrics == stages[name].data.metrics

    lineage = toy.run("python", "-m", "k2core.lineage", "data/join").stdout.splitlines()
    assert [line.split()[0] for line in lineage[1:-1]] == ["source", "branch@left", "branch@right", "join"]
    for line in lineage[1:-2]:
        assert stages[line.split()[0]].info.run_id[:8] in line
    assert stages["join"].info.run_id[:8] not in lineage[-2], "join has been made anew"
    assert "MLflow run" not in toy.run("python", "-m", "k2core.lineage", "data/join", "--no-mlflow").stdout


def test_a_killed_stage_is_marked_and_continues_to_the_same_bytes(toy: Workspace, tmp_path: Path) -> None:
    (toy.root / "work").mkdir(exist_ok=True)
    (toy.root / "work" / "kill-me").write_text("right")
    killed = toy.run("dvc", "repro", check=False)
    assert killed.returncode != 0
    wait_for_recorder(toy)
    assert {run.info.run_name: run.info.status for run in runs(toy)} == {
        "toy: stopped in branch@right": "KILLED", "source": "FINISHED",
        "branch@left": "FINISHED", "branch@right": "KILLED",
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
    told = (toy.root / "logs" / "tracking.log").read_text()
    assert told.count("MLflow takes no records") == 1
    assert f"--replay {spool}" in told
    refused = toy.run("python", "-m", "k2core.tracking.recorder", "--replay", str(spool), check=False)
    assert refused.returncode == 1
    assert "MLflow takes no records" in refused.stderr
    assert "Traceback" not in refused.stderr

    del toy.env["MLFLOW_TRACKING_URI"]
    ended = time.time() * 1000
    toy.run("python", "-m", "k2core.tracking.recorder", "--replay", str(spool))
    stages = runs(toy, "executed")
    assert {run.info.run_name for run in stages} == {"source", "branch@left", "branch@right", "join"}
    (pipeline,) = pipelines(toy)
    assert (pipeline.info.run_name, pipeline.info.status) == ("toy: 4 ran", "FINISHED")
    assert all(run.info.end_time < ended for run in [pipeline, *stages]), "times are those of the run, not of sending"
    assert not spool.exists()


def test_a_killed_recorder_is_followed_by_another_that_goes_on_with_the_same_run(toy: Workspace) -> None:
    toy.edit("params.yaml", "seconds_a_step: 0.02", "seconds_a_step: 0.4")
    state, chain = toy.root / "work" / "tracking.json", toy.start("dvc", "repro")
    deadline = time.monotonic() + 60
    while not (state.exists() and "source" in json.loads(state.read_text())["stages"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (recorder,) = toy.processes("k2core.tracking.recorder")
    recorder.kill()
    assert chain.wait(timeout=120) == 0
    wait_for_recorder(toy)
    (pipeline,) = pipelines(toy)
    assert pipeline.info.status == "FINISHED"
    stages = {run.info.run_name: run.info.status for run in runs(toy, "executed")}
    assert stages["join"] == "FINISHED"
    assert set(stages.values()) <= {"FINISHED", "KILLED"}, "none runs for ever"


def test_a_chain_that_fails_before_its_stage_begins_has_failed(toy: Workspace) -> None:
    toy.edit("params.yaml", "steps: 5", "steps: 0")
    toy.run("dvc", "repro", check=False)
    wait_for_recorder(toy)
    (pipeline,) = pipelines(toy)
    assert (pipeline.info.run_name, pipeline.info.status) == ("toy, count.steps=0: failed in source", "FAILED")
    sentence = "params.yaml: count.steps = 0: input should be greater than or equal to 1"
    assert pipeline.data.tags["k2.error"] == sentence
    assert f"> {sentence}" in pipeline.data.tags["mlflow.note.content"].splitlines()


@pytest.mark.parametrize(("old", "new", "sentence"), [
    ("steps: 5", "steps: 0", "count.steps = 0: input should be greater than or equal to 1"),
    ("steps: 5", "step: 5", "count.step: unknown key (did you mean steps?); allowed here: steps, seconds_a_step"),
    ("steps: 5", "steps: many", "count.steps = 'many'"),
])  # fmt: skip
def test_a_bad_recipe_ends_in_a_sentence(toy: Workspace, old: str, new: str, sentence: str) -> None:
    toy.edit("params.yaml", old, new)
    toy.env["K2_TRACKING"] = "off"
    failed = toy.run("python", "-m", "stages.count", "--out", "x", "--name", "a", check=False)
    assert failed.returncode == 1
    assert sentence in failed.stderr
    assert "Traceback" not in failed.stderr
