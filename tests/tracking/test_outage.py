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


@pytest.mark.parametrize("fault", ["random bytes in mlflow.db", "postgresql://k2@127.0.0.1:9/k2", "nonsense://here"])
def test_whatever_is_wrong_with_mlflow_the_records_are_kept_until_it_is_mended(
    store: Path, monkeypatch: pytest.MonkeyPatch, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The recorder once died of it and lost what it had been told."""
    whole = (store / "mlflow.db").read_bytes()
    if "://" in fault:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", fault)
    else:
        (store / "mlflow.db").write_bytes(os.urandom(4096))
    spool = Spool(store / "spool.jsonl")
    recorder = Recorder(store, os.getpid(), spool)
    recorder.begin("i", {})
    message = {"stage": "rl", "params": {}, "inputs": {}, "outputs": []}
    spool.add(("1", {"type": "start", "time": recording.now(), **message}))
    recorder.deliver()
    assert "MLflow takes no records (" in recorder.fault and "--replay" in recorder.fault
    assert "\n" not in recorder.fault and spool.path.exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (store / "mlflow.db").write_bytes(whole)
    monkeypatch.chdir(store)
    recording.replay(store, spool.path)
    (run,) = MlflowClient(f"sqlite:///{store / 'mlflow.db'}").search_runs(["1"], "tags.`k2.stage` = 'rl'")
    assert run.info.status == "KILLED" and not spool.path.exists()


def test_a_recorder_that_dies_keeps_what_it_was_told(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store)
    (store / "metrics").mkdir()
    (store / "metrics" / "torn.json").write_text('{"a": ')
    (store / "dvc.lock").write_text("stages: {torn: {cmd: x, outs: [{path: metrics/torn.json, md5: a}]}}")
    monkeypatch.setattr("sys.argv", ["recorder", "--pid", "0", "--socket", str(store / "i.sock")])
    monkeypatch.setattr(recording, "alive", lambda _: False)
    monkeypatch.setattr(Recorder, "deliver", lambda _: None)
    umask = os.umask(0o022)
    try:
        with pytest.raises(ValueError, match="Expecting value"):
            recording.main()
    finally:
        os.umask(umask)
    assert "the recorder died; what it had is kept: `python -m k2core.tracking.recorder --replay" in (
        capfd.readouterr().out
    )
    (kept,) = (store / "logs").glob("tracking-*.jsonl")
    assert '"begin"' in kept.read_text() and kept.stat().st_mode & 0o077 == 0
    assert (store / "mlflow.db").stat().st_mode & 0o077 == 0


def test_the_end_of_a_stage_that_does_not_wait_to_be_told_is_kept(store: Path) -> None:
    recorder = Recorder(store, os.getpid(), Spool(store / "spool.jsonl"))
    recorder.fault = "MLflow takes no records"
    ours, stage = socket.socketpair()
    stage.sendall(b'{"type": "start", "stage": "join"}\n{"type": "end", "status": "FINISHED", "error": ""}\n')
    stage.close()
    recorder._read("1", ours)
    kinds = [(message["type"], message.get("status")) for _, message in recorder.messages.queue]
    assert kinds == [("start", None), ("end", "FINISHED"), ("hangup", None)]
