"""How much memory a piece of work takes, for tests that it does not grow with what is read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

_POOLS: list[Any] = []
"""All that were ever set: Arrow frees a buffer in the pool that it came from, which may be after `peak`."""


def peak(work: Callable[[], Any]) -> int:
    """Most bytes that Python, numpy and Arrow hold during `work`, above what they hold before."""
    import pyarrow as pa

    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work()
        return int(tracemalloc.get_traced_memory()[1] + pool.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
