"""The held-out coding problems of a run, from files in the formats of HumanEval, MBPP and LiveCodeBench."""

from __future__ import annotations

from pathlib import Path

from k2core.evals.suites import of_a_run, runnable
from k2core.gym.coding import Coding


def make(data: Path | None) -> Coding:
    """The environment.

    Raises:
        StorageError: the run has no such problem, or no code can be run safely here.
    """
    return runnable(Coding.load(of_a_run(data) / "programs"), "programs.problems")
