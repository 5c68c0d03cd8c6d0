"""One pipeline run at a time in a workspace, and a stage's process tree that ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

KILL_AFTER_SECONDS = 12.0
TRANSIENT_EXITS = (75, -9, 137)
"""Worth another try: 75 is EX_TEMPFAIL (a network or service fault), 9 out-of-memory or a lost spot node."""


class StageFailed(RuntimeError):
    """A stage ended with a permanent fault; its last lines are the message."""


class TransientFailure(StageFailed):
    """A stage ended in a way that another attempt may mend; it continues from its scratch."""


@contextmanager
def hold(root: Path, holder: dict[str, str]) -> Iterator[None]:
    """Hold the workspace; a second run ends at once with a sentence that says who holds it."""
    from filelock import FileLock, Timeout

    path = root / "work" / "pipeline.lock"
    path.parent.mkdir(exist_ok=True)
    owner = path.with_suffix(".json")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = json.loads(owner.read_text()) if owner.exists() else {}
        about = ", ".join(f"{key} {value}" for key, value in who.items())
        raise SystemExit(
            f"this workspace is held by another pipeline run ({about}); wait for it or cancel it"
        ) from None
    try:
        owner.write_text(json.dumps({"pid": str(os.getpid()), **holder}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


class ProcessTrees:
    """Starts stages in process groups of their own and can end them all, whatever thread started them.

    Prefect's cancellation signals the flow's process only, and DVC forwards nothing to its child.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self.stopping = False

    def run(self, words: list[str], root: Path, log: Path, on_line: Callable[[str], None]) -> None:
        """Run a command; pass each line of its output to `on_line` and to the file `log`.

        Raises:
            TransientFailure, StageFailed: it did not exit with 0.
        """
        log.parent.mkdir(exist_ok=True)
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
                env={**os.environ, "K2_INVOCATION": str(os.getpid()), "PYTHONUNBUFFERED": "1"},
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            with log.open("w") as file:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if line.strip():
                        tail = [*tail[-19:], line.rstrip()]
                        on_line(line.rstrip())
            process.wait()
        finally:
            end_group(process)
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            kind = TransientFailure if _transient(tail, process.returncode) else StageFailed
            raise kind("\n".join(tail[-6:]) + f"\n(the whole output is in {log})")

    def stop(self) -> None:
        """End every process tree: SIGTERM, then SIGKILL after some seconds."""
        self.stopping = True
        with self._lock:
            running = list(self._running)
        for process in running:
            end_group(process)


def end_group(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the process's group; SIGKILL to what is left of it after `KILL_AFTER_SECONDS`."""
    import psutil

    members = _group(process.pid)
    for sign, patience in ((signal.SIGTERM, KILL_AFTER_SECONDS), (signal.SIGKILL, 3.0)):
        if not members:
            return
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        _, members = psutil.wait_procs(members, timeout=patience)


def _group(pgid: int) -> list:
    import psutil

    members = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def _transient(tail: list[str], returncode: int) -> bool:
    """DVC hides the stage's exit status in its message: `exited with N`."""
    return returncode == -9 or any(f"exited with {code}" in line for line in tail for code in TRANSIENT_EXITS)


def on_signal(stop: Callable[[], None]) -> None:
    """SIGTERM and Ctrl-C end the flow through an exception, after `stop` has been called."""

    def handler(signum: int, frame: object) -> None:
        stop()
        raise KeyboardInterrupt(f"signal {signum}")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)
    else:
        print("signals are left to the thread that runs the flow", file=sys.stderr)
