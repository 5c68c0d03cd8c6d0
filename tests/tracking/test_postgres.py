"""MLflow's records in PostgreSQL: its address in MLFLOW_TRACKING_URI is the one setting."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from k2core.tracking.runs import PipelineRuns


def program(name: str) -> str:
    """A program of PostgreSQL; Debian has them in a folder per version."""
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *folders])) or ""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a database on a server that is started for it."""
    if not importlib.util.find_spec("psycopg2"):
        pytest.skip("the driver is not installed (pip install -e '.[postgres]')")
    if not program("initdb"):
        pytest.skip("no PostgreSQL here (sudo apt-get install postgresql)")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # PostgreSQL refuses to run as root
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket() as free:
        os.chmod(folder, 0o777)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        place = f"{folder}/data"
        words = [program("initdb"), "-D", place, "-U", "k2", "--auth=trust", "--no-sync"]
        subprocess.run(words, check=True, capture_output=True, cwd="/", **user)
        options = ["-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        words = [program("postgres"), "-D", place, *options]
        with open(f"{folder}/log", "w") as log:
            server = subprocess.Popen(words, stdout=log, stderr=log, cwd="/", **user)
        try:
            deadline = time.monotonic() + 30
            while "ready to accept connections" not in Path(folder, "log").read_text():
                assert server.poll() is None and time.monotonic() < deadline, Path(folder, "log").read_text()
                time.sleep(0.1)
            yield f"postgresql://k2@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # SIGTERM would wait for MLflow's pool of connections
            server.wait(20)


def test_a_run_is_recorded_in_postgresql(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    (tmp_path / "params.yaml").write_text("pretrain: {}\n")
    runs = PipelineRuns(tmp_path)
    now = int(time.time() * 1000)
    runs.begin({"recipe": {"base": "laptop", "changed": {}}, "invocation": "i", "pid": 1, "time": now})
    run = runs.start_stage(
        "1", {"stage": "sft", "time": now, "params": {"sft": {"lr": 0.1}}, "inputs": {}}, watch=False
    )
    runs.metrics("1", {"values": {"train/loss": 2.0}, "step": 3, "time": now})
    runs.trace("1", {"name": "rollout", "messages": [{"role": "user", "content": "a"}], "about": {}, "time": now})
    runs.end_stage("1", {"status": "FINISHED", "error": "", "time": now})
    stage = {"name": "sft", "deps": {}, "outs": {"models/sft": "a.dir"}, "params": {}, "fingerprint": "f"}
    runs.finish({"lock": [stage], "metrics": {}, "time": now})
    client = MlflowClient(database)
    (model,) = client.search_logged_models([runs.experiment_id])
    assert (model.name, model.tags["k2.md5"], model.source_run_id) == ("sft", "a.dir", run)
    recorded = client.get_run(run)
    assert (recorded.data.params["sft/lr"], recorded.data.metrics["train/loss"]) == ("0.1", 2.0)
    assert client.get_run(runs.parent).info.run_name == "laptop: 1 ran"
    assert (tmp_path / "mlartifacts").is_dir(), "a database has no place for artifacts: the workspace has"
    assert len(client.search_traces(locations=[runs.experiment_id])) == 1
