"""Twenty deaths at random moments, and the run still ends in the same bytes as one that nobody disturbed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from random import Random

import torch
from test_trainer import Source, assert_equal, build, outcome, run

STEPS, KILLS = 60, 20
MORE = {"steps": STEPS, "checkpoint_every": 2}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "torch._dynamo", "test_trainer"])


class Watched(Source):
    """Says in a file how far the run is; takes its time, so that a death can hit any moment of a step."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.progress = folder / "progress"

    def batch(self, step: int, rows: range = range(4)):
        self.progress.write_text(str(step))
        time.sleep(0.004)
        return super().batch(step, rows)


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    run(folder, Watched(folder), *build(), **MORE)


def end_at(process, folder: Path, step: int, delay: float, signum: int) -> bool:
    """Send `signum` `delay` seconds after the run has come to `step`; whether it was still running."""
    while process.is_alive():
        if (folder / "progress").exists() and int((folder / "progress").read_text() or 0) >= step:
            time.sleep(delay)
            alive = process.is_alive()
            if alive:
                os.kill(process.pid, signum)
            process.join(60)
            return alive
        time.sleep(0.001)
    return False


def test_twenty_random_kills_change_nothing(tmp_path: Path) -> None:
    model, optimizer = build()
    torch.set_num_threads(1)
    run(tmp_path / "whole", Source(), model, optimizer, **MORE)
    whole = outcome(tmp_path / "whole", model, optimizer)

    random, folder, hits = Random(5), tmp_path / "killed", 0
    folder.mkdir()
    for step in sorted(random.randrange(1, STEPS - 1) for _ in range(KILLS)):
        process = PROCESSES.Process(target=work, args=(folder,))
        process.start()
        signum = random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        hits += end_at(process, folder, step, random.uniform(0, 0.03), signum)
        assert process.exitcode != 0
    assert hits == KILLS
    model, optimizer = build()
    result = run(folder, Source(), model, optimizer, **MORE)
    assert [row["step"] for row in result.rows] == list(range(3, STEPS + 1, 3))
    assert_equal(outcome(folder, model, optimizer), whole)
