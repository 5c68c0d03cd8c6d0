"""Who computes an operation: the dispatch of `k2core.ops`, all of it.

A backend is a module that has a function for each operation that it can do, under the operation's name and with its
signature, and `accepts(*tensors)`. It may lack an operation or refuse the tensors (their type, device or class): the
next one is asked, and `reference`, which has all of them and accepts everything, comes last.

The recipe's `compute.backend` says which ones are asked; `auto` asks all, of which those of another device refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor

from k2core.machine import device
from k2core.ops import reference
from k2core.ops.cpu import operations as cpu

ASKED: dict[str, tuple[ModuleType, ...]] = {"auto": (cpu,), "cpu": (cpu,), "reference": ()}
"""Setting → the backends that are asked before the reference, in order."""

_within: str | None = None


def implementation(operation: str, *tensors: Tensor) -> Callable[..., Any]:
    """The function that computes `operation` on `tensors`, which are those that a backend may refuse."""
    for backend in ASKED[_within or device.backend]:
        function = getattr(backend, operation, None)
        if function is not None and backend.accepts(*tensors):
            return function
    return getattr(reference, operation)


@contextmanager
def using(setting: str) -> Iterator[None]:
    """Within, `setting` holds whatever the recipe says: `reference` is what tests and benchmarks compare with.

    Raises:
        ValueError: there is no such setting.
    """
    global _within
    if setting not in ASKED:
        raise ValueError(f"no backend {setting}; there are: {', '.join(ASKED)}")
    before, _within = _within, setting
    try:
        yield
    finally:
        _within = before
