"""What a killed `make ui` has left is ended before the next one begins; the file of the records is watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import servers
from flows.records import Records

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A process that does not end when it is told to."""
    words = [sys.executable, "-c", STUBBORN]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout and process.stdout.readline() == "on\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("same", [True, False])
def test_a_worker_that_outlived_its_pages_is_ended(
    worker: subprocess.Popen[str], same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    noted = tmp_path / "servers.json"
    monkeypatch.setattr(servers, "NOTED", noted)
    servers.end_leftovers()
    assert capsys.readouterr().out == "", "there was no `make ui`"
    born = psutil.Process(worker.pid).create_time()
    noted.write_text(json.dumps({"worker": [worker.pid, born if same else born - 1], "gone": [999999999, 1.0]}))
    servers.end_leftovers(patience=0.2)
    said = capsys.readouterr().out
    if same:
        assert not psutil.pid_exists(worker.pid)
        assert said == f"ending what a `make ui` that was killed has left: worker (pid {worker.pid})\n"
    else:
        assert worker.poll() is None and said == "", "the number is another process's by now"
    assert not noted.exists()


def test_a_server_is_noted_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "NOTED", tmp_path / "servers.json")
    monkeypatch.setattr(servers, "ROOT", tmp_path)
    made = servers.Servers()
    made.start("sleeper", "sleep", "60")
    first = made.running["sleeper"].pid
    made.start_again("sleeper")
    ((name, (pid, born)),) = json.loads(servers.NOTED.read_text()).items()
    assert name == "sleeper" and first != pid == made.running["sleeper"].pid and not psutil.pid_exists(first)
    assert psutil.Process(pid).create_time() == born
    made.stop()
    assert not servers.NOTED.exists()


def test_a_run_that_its_worker_leaves_behind_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "NOTED", tmp_path / "servers.json")
    monkeypatch.setattr(servers, "ROOT", tmp_path)
    code = "import subprocess, time; subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(60)"
    made = servers.Servers()
    made.start(servers.WORKER, sys.executable, "-c", code)
    worker = psutil.Process(made.running[servers.WORKER].pid)
    deadline = time.monotonic() + 20
    while not (runs := worker.children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    made.stop()
    _, alive = psutil.wait_procs(runs, timeout=5)
    assert not alive and not worker.is_running()


def test_records_that_are_removed_or_replaced_are_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "mlflow.db"
    file.write_text("old")
    records = Records(tmp_path)
    assert records.lost() == ""
    file.write_text("grown")
    assert records.lost() == ""
    file.unlink()
    assert records.lost().startswith("mlflow.db was removed: the MLflow page shows a new one from now on")
    assert records.lost() == ""
    file.write_text("new")
    assert records.lost() == "", "MLflow's own, in place of none"
    (tmp_path / "other").write_text("another")
    os.replace(tmp_path / "other", file)
    assert records.lost().startswith("mlflow.db was replaced")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert Records(tmp_path).lost() == ""
