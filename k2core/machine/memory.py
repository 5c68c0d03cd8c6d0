"""How the C library handles memory."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: returning megabytes to the kernel each step costs about 13% of a small one's CPU.

    Does nothing where the C library is another one.
    """
    _set_options(trim=2**31 - 1, pad=256 * 2**20, mapped=0, least_mapped=2**17)


def return_freed_memory() -> None:
    """Have glibc give back what is freed: 64 KiB and more have pages of their own. Then a process has what it uses."""
    _set_options(trim=0, pad=0, mapped=2**30, least_mapped=2**16)


def _set_options(trim: int, pad: int, mapped: int, least_mapped: int) -> None:
    if sys.platform != "linux":
        return
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        values = {M_MMAP_MAX: mapped, M_TRIM_THRESHOLD: trim, M_TOP_PAD: pad, M_MMAP_THRESHOLD: least_mapped}
        for option, value in values.items():
            mallopt(option, value)


@contextmanager
def limited_memory(extra: int) -> Iterator[None]:
    """Within the block, this process can take `extra` more bytes; what asks for more gets a MemoryError.

    A process that it starts meanwhile has the same limit. Only Linux counts what this needs; elsewhere there is no
    limit.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    allowed = [limit for limit in (data + extra, soft) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
