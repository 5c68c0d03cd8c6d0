"""Processes that end with those that started them, however these end and however they hid them."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 10.0
"""Seconds in which whatever keeps starting processes must be caught."""


@contextmanager
def no_survivors() -> Iterator[None]:
    """When the block ends, every process that was started in it is killed, and those that they started.

    On Linux this finds also a process that left its session and whose parent has ended: this one adopts it meanwhile.
    Nothing that is to stay may be started in the block.
    """
    import psutil

    here = psutil.Process()
    before = set(here.children(recursive=True))
    adopting = _adopt_orphans(True)
    try:
        yield
    finally:
        deadline = time.monotonic() + PATIENCE
        while (left := set(here.children(recursive=True)) - before) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=1.0)
        _adopt_orphans(adopting)


def end_with_parent(sent: int = signal.SIGTERM) -> None:
    """In a new process: it is sent a signal when its parent dies, even of SIGKILL (Linux only)."""
    PR_SET_PDEATHSIG = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(sent))


def _adopt_orphans(wanted: bool) -> bool:
    """Whether orphans among this process's descendants become its children; returns what it was. Linux only."""
    if sys.platform != "linux":
        return False
    PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
    was, libc = ctypes.c_int(), ctypes.CDLL(None)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(was))
    libc.prctl(PR_SET_CHILD_SUBREAPER, int(wanted))
    return bool(was.value)
