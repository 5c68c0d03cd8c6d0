"""A stage as a process: it ends by SIGTERM, it never outlives what started it, and it seldom looks for garbage."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import threading
import time
from typing import Any

from k2core.machine.processes import LAUNCHER
from k2core.tracking.address import INVOCATION

SHELLS = ("sh", "dash", "bash", "zsh", "fish", "ksh")


def terminate(signum: int, frame: Any) -> None:
    """SIGTERM ends a stage like an exception: files are closed, the run is marked, scratch stays.

    The flow, DVC's end and a terminal may each send one; what follows the first would only interrupt the ending.
    """
    signal.signal(signum, signal.SIG_IGN)
    raise SystemExit(128 + signum)


def die_with_dvc() -> None:
    """Send ourselves SIGTERM when the `dvc` or the flow that started us is gone: neither may leave an orphan stage.

    DVC runs commands through `$SHELL`; bash becomes its command, dash stays in between, so the first ancestor that is
    not a shell is watched (the kernel's parent-death signal would watch the shell). One of a stage's many processes
    watches the process that launched them instead.
    """
    if "DVC_STAGE" not in os.environ and LAUNCHER not in os.environ:
        return
    import psutil

    ancestors = psutil.Process().parents()
    named = {int(os.environ[name]) for name in (LAUNCHER, INVOCATION) if os.environ.get(name, "").isdigit()}
    watched = [process for process in ancestors if process.pid in named]  # none, if it is on another machine
    if LAUNCHER not in os.environ:
        watched += [process for process in ancestors if process.name() not in SHELLS][:1]
    if not watched:
        return

    def watch() -> None:
        try:
            while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in watched):
                time.sleep(0.5)
        except psutil.NoSuchProcess:
            pass  # gone between the two questions
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-dvc", daemon=True).start()


def collect_seldom() -> None:
    """Look for cyclic garbage rarely, and not at the end: torch's import makes a million objects, none of them garbage.

    Saves a training stage about 1.5 s of its start and end.
    """
    gc.set_threshold(50_000, 10, 10)
    atexit.register(gc.freeze)
