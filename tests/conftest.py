"""Shared fixtures."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from workspace import BIN, ROOT, SLOW, Workspace, make_workspace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [Path(__file__).parent / name for name in SLOW]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace with the toy chain."""
    workspace = make_workspace(tmp_path / "toy", ROOT / "tests" / "toy")
    yield workspace
    for process in [*workspace.processes("stages."), *workspace.processes("flows."), *workspace.processes("prefect")]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture(scope="session")
def empty_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Prefect database without runs. Making one takes Prefect ten seconds, so it is made once and copied."""
    home = tmp_path_factory.mktemp("prefect")
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    words = [BIN / "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(words, env=environment, capture_output=True, check=True)
    return home / "prefect.db"


@pytest.fixture
def with_history(toy: Workspace, empty_history: Path) -> Workspace:
    """The toy chain with a Prefect database."""
    (toy.root / ".prefect").mkdir()
    shutil.copy(empty_history, toy.root / ".prefect")
    return toy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(params=["auto", "reference"])
def either_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with the backends that users have, and with plain torch."""
    from k2core.ops import using

    with using(request.param):
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket `s3://checkpoints`, for boto3 as configured by the environment."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": "/nonexistent",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    resource = boto3.resource("s3").Bucket("checkpoints")
    resource.create()
    yield "s3://checkpoints"
    resource.objects.all().delete()
    resource.delete()
