"""The held-out repository tasks of a run: a patch that mends a mistake, by the tests (docs/programs.md)."""

from __future__ import annotations

from pathlib import Path

from k2core.evals.suites import of_a_run, runnable
from k2core.gym.swe import Swe


def make(data: Path | None) -> Swe:
    """The environment.

    Raises:
        StorageError: the run has no such task, or no code can be run safely here.
    """
    return runnable(Swe.load(of_a_run(data) / "programs"), "programs.packages")
