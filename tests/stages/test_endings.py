"""What a stage says last: what DVC removed and how it comes back; where to look."""

from __future__ import annotations

import os
import signal
import time

from workspace import Workspace

BACK = "`dvc checkout data/source` brings the previous one back"


def test_what_dvc_removed_can_be_had_back_and_it_is_said(toy: Workspace) -> None:
    toy.edit("params.yaml", "steps: 5", "steps: 0")
    assert BACK not in toy.run("dvc", "repro", check=False).stderr, "there was none before"
    toy.edit("params.yaml", "steps: 0", "steps: 5")
    toy.run("dvc", "repro", "--single-item", "source")
    before = (toy.root / "data/source").read_text()

    toy.edit("params.yaml", "steps: 5", "steps: 0")
    done = toy.run("dvc", "repro", "--single-item", "source", check=False)
    assert BACK in done.stderr and not (toy.root / "data/source").exists()
    toy.run("dvc", "checkout", "data/source")
    assert (toy.root / "data/source").read_text() == before

    toy.edit("params.yaml", "steps: 0, seconds_a_step: 0.02", "steps: 30, seconds_a_step: 0.5")
    running = toy.start("dvc", "repro", "--single-item", "source")
    deadline = time.monotonic() + 60
    while not list((toy.root / "work").glob("source/*/place")):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.1)
    for process in toy.processes("-m stages.count"):
        process.terminate()
    said, _ = running.communicate(timeout=60)
    assert BACK in said and running.returncode != 0


def test_a_stage_can_say_where_to_look_when_all_is_in_place(toy: Workspace) -> None:
    said = toy.run("dvc", "repro").stdout.splitlines()
    (place,) = [number for number, line in enumerate(said) if line == "[join] look at data/join"]
    assert said[place - 1].startswith("[join] done in ")


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(toy: Workspace) -> None:
    toy.env["K2_TRACKING"] = "off"
    toy.edit("params.yaml", "seconds_a_step: 0.02", "seconds_a_step: 0.5")
    repro = toy.start("dvc", "repro", "source", own_group=True)
    deadline = time.monotonic() + 60
    while not list(toy.root.glob("work/source/*/place")):
        assert time.monotonic() < deadline, "no stage was started"
        time.sleep(0.05)
    os.killpg(repro.pid, signal.SIGINT)
    said, _ = repro.communicate(timeout=60)
    assert repro.returncode != 0 and "Traceback" not in said and "Aborted" not in said
    assert "count: cancelled; what is finished is kept, and the same command goes on from there" in said.splitlines()
    assert "[source] continues at" in toy.run("dvc", "repro", "source").stdout
