"""The dispatch of `k2core.ops`: which backend computes an operation.

A backend is a module with `accepts(*tensors)` and a function for each operation that it can compute, of the operation's
name and signature. If it lacks an operation or refuses the tensors (their type, device or class), the next one is
asked. `reference` comes last: it has all operations and accepts everything.

The recipe's `compute.backend` says which ones are asked; `auto` asks all, and those for another device refuse.
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
from k2core.ops.cuda import operations as cuda

ASKED: dict[str, tuple[ModuleType, ...]] = {"auto": (cpu, cuda), "cpu": (cpu,), "cuda": (cuda,), "reference": ()}
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
    """Within the block, `setting` overrides the recipe: tests and benchmarks compare with `reference`.

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


@contextmanager
def flash_for(*widths: tuple[int, int]) -> Iterator[None]:
    """Within the block, `cuda` sends heads of these widths (of queries, of values) to a flash kernel, and no others.

    The kernels are compared so.
    """
    from k2core.ops.cuda import flash

    before, flash.WIDTHS = flash.WIDTHS, frozenset(widths)
    try:
        yield
    finally:
        flash.WIDTHS = before
