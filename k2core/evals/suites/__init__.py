"""Environments that are asked of any model, and that nothing is trained on: a module each, found by this folder.

Each is called as its environment and has `make(data)`, which makes an `Environment` (`k2core/gym/base.py`). `data` is
the folder `data` of a run, or None; a suite whose items are not here raises `StorageError` with what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from k2core.gym.base import Environment
from k2core.sandbox.backends import missing
from k2core.storage import StorageError

E = TypeVar("E", bound=Environment)


def of_a_run(data: Path | None) -> Path:
    """`data`, for a suite that asks about a run.

    Raises:
        StorageError: it is None.
    """
    if data is None:
        raise StorageError("its items come from a run; name that run's folder with --data")
    return data


def runnable(environment: E, key: str) -> E:
    """`environment`, whose verdicts run programs.

    Args:
        key: of the recipe, which gives it items.

    Raises:
        StorageError: it has no held-out item, or no code can be run safely here.
    """
    if not environment.size("heldout"):
        raise StorageError(f"the run has no held-out item of it; its recipe says in {key} what to make")
    if reason := missing():
        raise StorageError(reason)
    return environment
