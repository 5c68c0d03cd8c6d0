"""The runs of an invocation, in a real MLflow store, without a chain."""

from __future__ import annotations

import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from k2core.tracking.experiment import VIEW, ensure_experiment
from k2core.tracking.headlines import OF_MODELS
from k2core.tracking.runs import PipelineRuns

NOTHING: dict[str, Any] = {"lock": [], "metrics": {}}
STAGE = {"params": {}, "inputs": {}}


@pytest.fixture
def runs(store: Path) -> PipelineRuns:
    (store / "params.yaml").write_text("pretrain: {stable: {}, decay: {}}\n")
    made = PipelineRuns(store)
    made.begin({"recipe": {"base": "laptop", "changed": {}}, "invocation": "i", "pid": 1, "time": now()})
    return made


def now() -> int:
    return int(time.time() * 1000)


def test_the_machine_is_watched_while_a_stage_runs(runs: PipelineRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run_id = runs.start_stage("1", {"stage": "source", "time": now(), **STAGE}, watch=True)
    deadline, metrics = time.monotonic() + 30, {}
    while "system/system_memory_usage_percentage" not in metrics:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        metrics = runs.client.get_run(run_id).data.metrics
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    runs.end_stage("1", {"status": "FINISHED", "error": "", "time": now()})
    assert runs.client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(("status", "words"), [("FAILED", "failed in rl"), ("KILLED", "stopped in rl")])
def test_what_the_flow_says_of_the_outcome_wins(runs: PipelineRuns, status: str, words: str) -> None:
    runs.start_stage("1", {"stage": "rl", "time": now(), **STAGE}, watch=False)
    runs.end_stage("1", {"status": "KILLED", "error": "stopped by a signal", "time": now()})
    runs.outcome = {"status": status, "error": "the disk is full; make room", "seconds": 12.0}
    assert runs.finish({**NOTHING, "time": now()}) == status
    pipeline = runs.client.get_run(runs.parent)
    assert (pipeline.info.status, pipeline.info.run_name) == (status, f"laptop: {words}")
    assert pipeline.data.tags["k2.error"] == "the disk is full; make room"
    note = pipeline.data.tags["mlflow.note.content"]
    assert "> the disk is full; make room" in note.splitlines()
    assert "after 12 s" in note


def test_the_description_links_to_the_pages(runs: PipelineRuns, tmp_path: Path) -> None:
    page = tmp_path / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("<h1>report</h1>")
    runs.tag_parent({"prefect.flow_run_url": "http://127.0.0.1:4200/runs/flow-run/1"})
    report = runs.start_stage("1", {"stage": "report", "time": now(), **STAGE}, watch=False)
    files = [
        {"path": "report/index.html", "bytes": 15, "changed": page.stat().st_mtime_ns},
        {"path": "report/gone.html", "bytes": 15, "changed": 1},
    ]
    runs.outputs("1", {"root": str(tmp_path), "outputs": [{"path": "report", "bytes": 30, "count": 2, "files": files}]})
    runs.end_stage("1", {"status": "FINISHED", "error": "", "time": now()})
    runs.finish({**NOTHING, "time": now()})
    note = runs.client.get_run(runs.parent).data.tags["mlflow.note.content"]
    assert f"[The report](#/experiments/{runs.experiment_id}/runs/{report}/artifacts/report/index.html" in note
    assert [item.path for item in runs.client.list_artifacts(report, "report")] == ["report/index.html"]
    assert "[The flow run in Prefect](http://127.0.0.1:4200/runs/flow-run/1)" in note
    assert runs.client.get_run(report).data.tags["prefect.flow_run_url"] == "http://127.0.0.1:4200/runs/flow-run/1"


def test_figures_of_an_earlier_state_are_not_those_of_a_run_that_failed(runs: PipelineRuns) -> None:
    def locked(name: str, deps: dict[str, str], outs: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "deps": deps, "outs": outs, "params": {}, "fingerprint": name}

    lock = [
        locked("pretrain@stable", {}, {"models/stable": "a"}),
        locked("pretrain@decay", {"models/stable": "b"}, {"models/decay": "c"}),
        locked("evaluate@sft", {"models/decay": "c"}, {"data/sft": "d"}),
    ]
    figures = {"heldout/bits_per_byte": 2.0}
    metrics = dict.fromkeys(("pretrain-stable.json", "pretrain-decay.json", "evaluate-sft.json"), figures)
    runs.finish({"lock": lock, "metrics": metrics, "time": now()})
    assert list(runs.client.get_run(runs.parent).data.metrics) == ["bits per byte 1 stable: lower is better"]
    assert set(runs.skipped) == {"pretrain@stable"}
    stage = runs.client.get_run(runs.skipped["pretrain@stable"])
    assert stage.data.metrics == figures, "from its metrics file: the run that made it is not in this store"
    assert stage.data.tags["k2.produced_by"] == "unknown"


def test_runs_that_nobody_will_end_are_closed_and_those_of_other_machines_are_not(runs: PipelineRuns) -> None:
    def running(recorder: str) -> str:
        return runs.client.create_run(runs.experiment_id, tags={"k2.recorder": recorder}).info.run_id

    ours, theirs = running(f"{platform.node()}:999999999:1.0"), running("elsewhere:1:1.0")
    again = PipelineRuns(runs.root)
    again.begin({"recipe": {"base": "laptop", "changed": {}}, "invocation": "j", "pid": 1, "time": now()})
    assert [runs.client.get_run(run).info.status for run in (ours, theirs, runs.parent)] == [
        "KILLED", "RUNNING", "RUNNING",
    ]  # fmt: skip


def test_a_run_whose_store_was_removed_goes_on_in_the_new_one(
    runs: PipelineRuns, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, stage in (("1", "sft"), ("2", "rl")):
        runs.start_stage(number, {"stage": stage, "time": now(), **STAGE}, watch=False)
    runs.end_stage("1", {"status": "FINISHED", "error": "", "time": now()})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_store, tmp_path / 'new.db')}")
    again = PipelineRuns(runs.root)
    again.resume(runs.state())
    again.metrics("2", {"values": {"loss": 1.0}, "step": 0, "time": now()})
    again.end_stage("2", {"status": "FINISHED", "error": "", "time": now()})
    again.finish({**NOTHING, "time": now()})
    stage, pipeline = sorted(again.client.search_runs(["1"]), key=lambda run: run.data.tags.get("k2.kind", ""))
    assert (stage.info.run_name, stage.info.status, stage.data.metrics["loss"]) == ("rl", "FINISHED", 1.0)
    assert (pipeline.info.run_name, pipeline.info.status) == ("laptop: 1 ran", "FINISHED")
    assert stage.data.tags["mlflow.parentRunId"] == pipeline.info.run_id


def test_the_page_opens_on_pipeline_runs_with_their_figures(runs: PipelineRuns, tmp_path: Path) -> None:
    tags = runs.client.get_experiment(runs.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "viewStateShareKey=pipelines" in tags["mlflow.note.content"]
    state = json.loads(json.loads(tags[f"mlflow.sharedViewState.{VIEW}"])["state"])
    assert f"metrics.`{OF_MODELS[0].name}`" in state["selectedColumns"]
    found = runs.client.search_runs([runs.experiment_id], state["searchFilter"])
    assert [run.info.run_id for run in found] == [runs.parent]
    runs.client.set_experiment_tag(runs.experiment_id, "mlflow.note.content", "of an older version")
    runs.client.delete_experiment(runs.experiment_id)
    assert ensure_experiment(runs.client, tmp_path) == runs.experiment_id
    assert runs.client.get_experiment(runs.experiment_id).tags == tags
