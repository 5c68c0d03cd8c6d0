"""MLflow away for a while: what was recorded meanwhile gets there by itself, once, in order."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.server import ARTIFACT_ROOT_ENV_VAR, BACKEND_STORE_URI_ENV_VAR, app
from mlflow.tracking import MlflowClient
from werkzeug.serving import make_server

from k2core.tracking import recorder as recording
from k2core.tracking.recorder import Recorder
from k2core.tracking.spool import Spool


@contextmanager
def server(port: int, database: Path) -> Iterator[None]:
    """MLflow's REST server; its connections are refused afterwards."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv(BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{database}")
    monkeypatch.setenv(ARTIFACT_ROOT_ENV_VAR, database.parent.as_uri())
    serving = make_server("127.0.0.1", port, app)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    try:
        yield
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()
        monkeypatch.undo()


def test_records_follow_when_mlflow_starts_late_or_starts_again(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(recording, "RETRY_SECONDS", 0.0)
    spool = Spool(store / "spool.jsonl")
    recorder = Recorder(store, os.getpid(), spool)
    step = iter(range(99))

    def say(number: str, kind: str, **message: Any) -> None:
        spool.add((number, {"type": kind, "time": recording.now(), **message}))
        recorder.deliver()

    def metric() -> None:
        at = next(step)
        say("1", "metrics", values={"loss": float(at)}, step=at)

    recorder.begin("i", {})
    say("1", "start", stage="rl", params={"rl": {"tau": 0.1}}, inputs={"data/x": "a" * 32}, outputs=[])
    metric()
    assert "MLflow takes no records" in recorder.fault
    with server(port, store / "mlflow.db"):  # late
        metric()
        assert not recorder.fault
        assert not spool.path.exists()
    for _ in range(3):
        metric()
    say("1", "end", status="FINISHED", error="")
    assert spool.path.exists()
    with server(port, store / "mlflow.db"):  # again
        recorder.finish()
        assert not recorder.fault
        client = MlflowClient()
        found = client.search_runs([client.get_experiment_by_name("k2").experiment_id])
        stage, pipeline = sorted(found, key=lambda run: run.data.tags.get("k2.kind", ""))
        assert (stage.info.run_name, pipeline.info.run_name) == ("rl", "unreadable recipe: 1 ran")
        assert {run.info.status for run in found} == {"FINISHED"}
        history = client.get_metric_history(stage.info.run_id, "loss")
        assert [(item.step, item.value) for item in history] == [(at, float(at)) for at in range(5)]
    assert capfd.readouterr().out.count("MLflow is back") == 2


def test_a_record_that_mlflow_refuses_does_not_hold_up_the_others(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recorder = Recorder(store, os.getpid(), Spool(store / "spool.jsonl"))
    recorder.begin("i", {})
    for number, message in (
        ("1", {"type": "start", "stage": "rl", "params": {}, "inputs": {}, "outputs": []}),
        ("1", {"type": "metrics", "values": {"loss?!": 1.0}, "step": 0}),
        ("1", {"type": "metrics", "values": {"loss": 2.0}, "step": 0}),
        ("1", {"type": "end", "status": "FINISHED", "error": ""}),
    ):
        recorder.spool.add((number, {"time": recording.now(), **message}))
    recorder.finish()
    assert not recorder.fault
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (run,) = client.search_runs(["1"], "tags.`k2.stage` = 'rl'")
    assert run.data.metrics["loss"] == 2.0
    assert "MLflow refused a record" in capfd.readouterr().out
