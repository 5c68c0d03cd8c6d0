"""The flow on the toy chain: states, retries, cancellation, one run per workspace. Real Prefect, DVC and processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import time

import pytest
from pages import wait_until
from workspace import Workspace


def states(output: str) -> dict[str, str]:
    """Stage → state, from the table at the end of the flow's log."""
    found = {}
    for line in output.splitlines():
        if "Flow run" not in line:
            continue
        words = line.split(" - ")[-1].split()
        if (len(words) > 2 and words[1] in ("done", "cached", "failed")) or words[1:3] == ["not", "reached"]:
            found[words[0]] = words[1]
    return found


def test_runs_retries_and_shows_cached(toy: Workspace) -> None:
    toy.edit("params.yaml", 'fail: ""', "fail: once")
    # Nothing of this leads anywhere, and all servers are on this machine.
    toy.env |= {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "example.org"}
    first = toy.run("python", "-m", "flows.pipeline")
    log = first.stdout + first.stderr
    assert states(log) == dict.fromkeys(["source", "branch@left", "branch@right", "join"], "done")
    assert "the LLM server went away" in log, "the stage's own words are in the run's log"
    lock = toy.lock()

    nothing = toy.run("python", "-m", "flows.pipeline")
    assert "all 4 stages are up to date" in nothing.stdout
    assert "temporary server" not in nothing.stdout + nothing.stderr, "a no-op starts no server"
    assert toy.lock() == lock

    toy.edit("params.yaml", "fail: once", "fail: bad")
    bad = toy.run("python", "-m", "flows.pipeline", check=False)
    assert bad.returncode == 1
    assert states(bad.stdout + bad.stderr) == {
        "source": "cached", "branch@left": "cached", "branch@right": "cached", "join": "failed",
    }  # fmt: skip
    assert "left has no column text" in bad.stdout + bad.stderr
    assert (bad.stdout + bad.stderr).count("- Running stage 'join'") == 1, "a permanent fault is not tried again"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_cancel_ends_the_tree_and_a_second_run_is_refused(toy: Workspace, sign: signal.Signals) -> None:
    toy.edit("params.yaml", "steps: 5, seconds_a_step: 0.02", "steps: 30, seconds_a_step: 0.25")
    flow = toy.start("python", "-m", "flows.pipeline", own_group=True)
    wait_until(lambda: toy.processes("stages.count"), 240, "no stage was started")
    time.sleep(3)

    second = toy.run("python", "-m", "flows.pipeline", check=False)
    assert second.returncode != 0
    assert f"held by another pipeline run (pid {flow.pid}" in second.stdout + second.stderr

    asked = time.monotonic()
    if sign == signal.SIGINT:
        os.killpg(flow.pid, sign)  # Ctrl-C reaches the temporary server, too
    else:
        flow.send_signal(sign)
    wait_until(
        lambda: not toy.processes("stages.count") and not toy.processes("dvc"), 30, "the stage outlived the flow"
    )
    said, _ = flow.communicate(timeout=60)
    told = "finished stages and checkpoints are kept, and the same command goes on from there"
    assert flow.returncode == 130 and told in said, said
    assert "Prefect's server" not in said and "Traceback" not in said
    assert time.monotonic() - asked < 60
    if sign == signal.SIGTERM:
        with contextlib.closing(sqlite3.connect(toy.root / ".prefect" / "prefect.db")) as history:
            assert history.execute("SELECT state_name FROM flow_run").fetchall() == [("Cancelled",)]
    continued = toy.run("dvc", "repro", "--single-item", "source")
    assert "[source] continues at" in continued.stdout


def test_sigterm_ends_a_run_whose_temporary_server_has_died(toy: Workspace) -> None:
    toy.edit("params.yaml", "steps: 5, seconds_a_step: 0.02", "steps: 200, seconds_a_step: 0.25")
    flow = toy.start("python", "-m", "flows.pipeline")
    wait_until(lambda: toy.processes("stages.count"), 240, "no stage was started")
    time.sleep(3)
    (server,) = toy.processes("uvicorn")
    server.kill()
    flow.send_signal(signal.SIGTERM)
    said, _ = flow.communicate(timeout=90)
    assert flow.returncode == 130 and "cancelled; every stage's process has ended" in said.splitlines()[-1], said
    assert not toy.processes("stages.count") and not (toy.root / "work" / "pipeline.json").exists()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_killed_dvc_leaves_no_orphan(toy: Workspace, shell: str) -> None:
    toy.env["SHELL"] = shell  # dvc runs a stage through it; dash stays in between, bash does not
    toy.edit("params.yaml", "steps: 5, seconds_a_step: 0.02", "steps: 30, seconds_a_step: 0.25")
    repro = toy.start("dvc", "repro")
    wait_until(lambda: list(toy.root.glob("work/source/*/place")), 60, "no stage was started")
    os.kill(repro.pid, signal.SIGKILL)
    repro.wait()
    wait_until(lambda: not toy.processes("stages.count"), 4, "the stage outlived a killed dvc")
    assert "[source] continues at" in toy.run("dvc", "repro", "--single-item", "source").stdout


def test_an_archive_of_the_sources_says_the_one_command_and_then_runs(toy: Workspace) -> None:
    shutil.rmtree(toy.root / ".git")
    refused = toy.run("python", "-m", "flows.pipeline", "--target", "source", check=False)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    (command,) = re.findall(r"`(dvc [^`]*)`", refused.stderr)
    toy.run(*command.split())
    toy.run("dvc", "repro", "source")
    toy.run("python", "-m", "k2core.lineage", "data/source")
    assert "all 1 stages are up to date" in toy.run("python", "-m", "flows.pipeline", "--target", "source").stdout
