"""Where the recorder listens: a folder of this user's alone, whatever TMPDIR is and whoever was there first."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from workspace import ROOT

from k2core.tracking import client
from k2core.tracking.address import socket_path


def in_tmpdir(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / ("a long name of a workspace " * 5)
    root.mkdir()
    monkeypatch.chdir(root)
    return root


def listens(root: Path) -> Path:
    """The recorder's address, at which something really can listen."""
    path = socket_path(root, os.getpid())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    path.unlink()
    about = path.parent.lstat()
    assert about.st_uid == os.geteuid() and about.st_mode & 0o777 == 0o700
    return path


def test_it_is_in_a_private_folder_of_the_systems(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        in_tmpdir(monkeypatch, Path(place))
        assert listens(root).parent == Path(place) / f"k2-{os.geteuid()}"


@pytest.mark.parametrize("fault", ["long", "unwritable", "missing"])
def test_a_tmpdir_that_does_not_serve_is_done_without(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    place = tmp_path / ("x" * 90)
    if fault != "missing":
        place.mkdir(mode=0o700 if fault == "long" else 0o500)
    in_tmpdir(monkeypatch, place)
    path = listens(root)
    assert not path.is_relative_to(place)
    if fault == "long":
        assert path.parent == Path("work") / f"k2-{os.geteuid()}"


@pytest.mark.parametrize("planted", ["link", "another user's", "open to all"])
def test_who_was_there_first_receives_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as place, tempfile.TemporaryDirectory(dir="/tmp") as elsewhere:
        in_tmpdir(monkeypatch, Path(place))
        folder = Path(place) / f"k2-{os.geteuid()}"
        if planted == "link":
            folder.symlink_to(elsewhere)
        else:
            folder.mkdir(mode=0o777)
        if planted == "another user's":
            if os.geteuid():
                pytest.skip("only root can give a folder away")
            os.chown(folder, 12345, 12345)
        path = listens(root)
        assert (path.parent == folder) == (planted == "open to all"), "one's own is closed and used"
        assert not os.listdir(elsewhere)


def test_without_any_place_a_stage_goes_on_unrecorded(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_tmpdir(monkeypatch, root / "missing")
    monkeypatch.setattr("k2core.tracking.address.MOST", 3)
    with client.StageRun.open("count", {}, {}, "") as run:
        run.metrics({"loss": 1.0}, 0)
    assert "tracking: nothing is recorded (" in capsys.readouterr().err


def test_a_recorder_that_cannot_start_costs_no_ten_seconds(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "START_SECONDS", 60.0)
    fails = [sys.executable, "-c", "raise SystemExit(1)"]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: start(fails, **{**options, "cwd": ROOT}))
    assert client.connect(root) is None
    assert "the recorder did not start; see logs/tracking.log" in capsys.readouterr().err
    assert (root / "logs").stat().st_mode & 0o777 == 0o700
