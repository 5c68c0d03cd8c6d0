"""Faults injected into a run from the page: what the user sees, and that nothing is lost (docs/faults.md)."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import Pages, wait_until
from workspace import ROOT, Workspace, make_workspace

FAST = "count.seconds_a_step=0"
STEPS = itertools.count(40)
"""A number of steps of its own for each run: DVC brings back what it has made before."""


def under_way(pages: Pages, seconds_a_step: float = 0.15) -> str:
    """Start a slow run; its id once its first stage counts."""
    run = pages.start("chain", f"count.steps={next(STEPS)}", f"count.seconds_a_step={seconds_a_step}")
    wait_until(lambda: pages.toy.processes("stages.count"), 60, "no stage was started")
    time.sleep(1.5)
    return run


def goes_on(pages: Pages) -> None:
    """The next run continues from the scratch that the fault has left, and ends well."""
    run = pages.start("chain", FAST)
    pages.await_state(run, "COMPLETED", 90)


def of_flow(pages: Pages) -> int:
    """The process of the flow run that is under way."""
    (process, *_) = [p for p in pages.toy.processes("prefect.") if "PREFECT__FLOW_RUN_ID" in (p.info["environ"] or {})]
    return process.pid


def test_a_killed_worker_is_started_again_and_the_run_ends_well(pages: Pages) -> None:
    run = under_way(pages)
    os.kill(pages.server("worker"), signal.SIGKILL)
    wait_until(lambda: "worker has ended with status -9" in pages.said(), 10, "make ui did not notice")
    pages.await_state(run, "COMPLETED", 120)


def test_a_run_whose_worker_was_killed_can_be_cancelled(pages: Pages) -> None:
    run = under_way(pages, 0.25)  # the run itself hears of it after twenty seconds
    os.kill(pages.server("worker"), signal.SIGKILL)
    pages.cancel(run)
    pages.await_state(run, "CANCELLED", 60)
    wait_until(lambda: not pages.toy.processes("stages.count"), 10, "the stage outlived its flow")
    goes_on(pages)
    assert pages.api_get(f"flow_runs/{run}")["state_type"] == "CANCELLED", "and nothing else after that"


def test_a_killed_flow_leaves_no_process_and_the_next_run_goes_on(pages: Pages) -> None:
    run = under_way(pages)
    os.kill(of_flow(pages), signal.SIGKILL)
    wait_until(lambda: not pages.toy.processes("stages.count"), 10, "the stage outlived its flow")
    pages.await_state(run, "CRASHED", 30)
    goes_on(pages)


def test_a_restarted_server_does_not_stop_the_run(pages: Pages) -> None:
    run = under_way(pages)
    os.kill(pages.server("prefect-server"), signal.SIGKILL)
    wait_until(lambda: "prefect-server has ended" in pages.said(), 10, "make ui did not notice")
    pages.await_state(run, "COMPLETED", 120)


def test_a_stage_that_hangs_is_ended(pages: Pages) -> None:
    run = pages.start("chain", f"count.steps={next(STEPS)}", "count.seconds_a_step=600", "limits.minutes=0.1")
    pages.await_state(run, "FAILED", 60)
    assert "source: it ran longer than its 0.1 minutes" in pages.api_get(f"flow_runs/{run}")["state"]["message"]
    assert not pages.toy.processes("stages.count")
    run = pages.start("chain", FAST, "limits.minutes=10")
    pages.await_state(run, "COMPLETED", 90)


def test_of_two_runs_at_once_the_second_waits(pages: Pages) -> None:
    first = under_way(pages)
    second = pages.start("join")
    time.sleep(4)
    assert pages.api_get(f"flow_runs/{first}")["state_type"] == "RUNNING"
    assert pages.api_get(f"flow_runs/{second}")["state_type"] == "SCHEDULED"
    at_a_terminal = pages.toy.run("python", "-m", "flows.pipeline", check=False)
    assert "this workspace is held by another pipeline run" in at_a_terminal.stderr
    pages.await_state(first, "COMPLETED", 120)
    pages.await_state(second, "COMPLETED", 60)


def test_stopping_the_pages_ends_their_runs_first(pages: Pages) -> None:
    run = under_way(pages)
    pages.stop()
    assert pages.children() == []
    pages.begin()
    assert pages.api_get(f"flow_runs/{run}")["state_type"] in ("CRASHED", "CANCELLED")
    goes_on(pages)


def test_killed_pages_take_their_servers_along(pages: Pages) -> None:
    os.kill(pages.process.pid, signal.SIGKILL)
    pages.process.wait()
    wait_until(lambda: not pages.children(), 40, "a server outlived make ui")
    pages.begin()
    goes_on(pages)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_named_and_the_next_run_goes_on(small_disk: Path) -> None:
    toy: Workspace = make_workspace(small_disk / "toy", ROOT / "tests" / "toy")
    toy.env["K2_TRACKING"] = "off"
    toy.run("dvc", "repro", "source")
    toy.edit("params.yaml", "steps: 5", "steps: 6")
    ballast = toy.root / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    full = toy.run("dvc", "repro", "source", check=False)
    assert full.returncode != 0
    said = full.stdout + full.stderr
    assert "No space left on device" in said
    assert "Traceback" not in said
    ballast.unlink()
    toy.run("dvc", "repro", "source")
    assert "6" in (toy.root / "data" / "source").read_text()
