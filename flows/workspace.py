"""A stage's process tree, which ends with the run that started it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from k2core.recipe import mask
from k2core.storage.foreign import printable
from k2core.storage.private import log_folder
from k2core.tracking.address import INVOCATION

if TYPE_CHECKING:
    import psutil

KILL_AFTER_SECONDS = 12.0
TRANSIENT_EXITS = (75, -9, 137)
"""Worth another try: 75 is EX_TEMPFAIL (a network or service fault), 9 out-of-memory or a lost spot node."""


class StageFailed(RuntimeError):
    """A stage ended with a permanent fault; its last lines are the message."""


class TransientFailure(StageFailed):
    """A stage ended in a way that another attempt may mend; it continues from its scratch."""


class ProcessTrees:
    """Starts stages in process groups of their own and can end them all, whatever thread started them.

    Prefect's cancellation signals the flow's process only, and DVC forwards nothing to its child.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopping = False

    def run(
        self, words: list[str], root: Path, log: Path, limit: float, on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None, begun: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        """Run a command; pass each line of its output to `on_line` and to the file `log`.

        Args:
            limit: seconds after which the command and all that it has started are ended.
            environment: what the command sees besides this process's; by default that it belongs to this run.
            begun: told the command's process id.

        Raises:
            TransientFailure, StageFailed: it did not exit with 0, or not in time; the message is one sentence.
        """
        log_folder(root)
        tail: list[str] = []
        with self._lock:
            if self.stopping:
                raise StageFailed("the run is being cancelled")
            process = subprocess.Popen(
                words,
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {INVOCATION: str(os.getpid())})},
            )
            self._running.add(process)
        if begun:
            begun(process.pid)
        late = threading.Event()

        def too_late() -> None:
            late.set()
            end_groups([process.pid])

        clock = threading.Timer(limit, too_late)
        clock.daemon = True
        clock.start()
        try:
            assert process.stdout is not None
            with log.open("w") as file:
                for line in (printable(mask(raw)) for raw in process.stdout):
                    file.write(line)
                    file.flush()
                    if line.strip():
                        tail = [*tail[-19:], line.rstrip()]
                        on_line(line.rstrip())
            process.wait()
        finally:
            clock.cancel()
            end_groups([process.pid])
            with self._lock:
                self._running.discard(process)
        if late.is_set():
            raise StageFailed(
                f"it ran longer than its {limit / 60:g} minutes (section `limits` of the recipe) and was ended"
            )
        if self.stopping:  # whatever the status: psutil may have asked for it first, and then Popen says 0
            raise StageFailed("it was ended with the run")
        if process.returncode:
            kind = TransientFailure if _transient(tail, process.returncode) else StageFailed
            raise kind(sentence(tail))

    def stop(self) -> None:
        """End every process tree: SIGTERM, then SIGKILL after some seconds."""
        self.stopping = True
        with self._lock:
            running = [process.pid for process in self._running]
        end_groups(running)


def end_groups(leaders: Iterable[int], patience: float = KILL_AFTER_SECONDS) -> None:
    """SIGTERM to the process groups of these leaders; SIGKILL to what is left of them after `patience` seconds."""
    import psutil

    groups = set(leaders)
    members = _members(groups)
    for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 3.0)):
        for group in groups if members else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, sign)
        _, members = psutil.wait_procs(members, timeout=seconds)


def _members(groups: set[int]) -> list[psutil.Process]:
    import psutil

    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def _transient(tail: list[str], returncode: int) -> bool:
    """DVC hides the stage's exit status in its message: `exited with N`; and it does not wait for a path in use."""
    told = [*(f"exited with {code}" for code in TRANSIENT_EXITS), "is busy, it is being blocked by"]
    return returncode == -9 or any(words in line for line in tail for words in told)


def sentence(tail: list[str]) -> str:
    """Why a command failed, from its last lines: what the stage said, without what DVC adds to it."""
    if any(f"exited with {code}" in line for line in tail for code in (-signal.SIGKILL, 128 + signal.SIGKILL)):
        return "it was killed (SIGKILL), perhaps for lack of memory"
    own = [line.strip() for line in tail if not line.startswith(("ERROR: failed to reproduce", "tracking: "))]
    faults = [number for number, line in enumerate(own) if re.match(r"[a-z_]+: ", line)]  # a stage begins with its name
    if not faults:
        return own[-1] if own else tail[-1] if tail else "it ended without a word"
    more = len(own) - faults[0] - 1
    return own[faults[0]].partition(": ")[2] + (f" (and {more} more)" if more else "")
