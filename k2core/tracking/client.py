"""A stage's end of the line to the recorder: standard library only, and never in the way of the stage's work."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2core.recipe.masking import mask
from k2core.storage.foreign import printable
from k2core.storage.private import log_folder
from k2core.tracking.address import RECORDS, invocation_pid, socket_path

START_SECONDS = 10.0


class StageRun:
    """The MLflow run of one stage execution, as the stage sees it.

    The recorder keeps what is sent. While MLflow cannot be reached, it says so in `logs/tracking.log`, and a stage that
    ends then prints the sentence; outputs are unaffected.
    """

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, stage: str, params: dict[str, Any], inputs: dict[str, str], about: str) -> Iterator[StageRun]:
        """Announce the stage; on leaving the block say how it ended: FINISHED, FAILED or KILLED (signals).

        Args:
            about: what it does.
        """
        run = cls(connect(Path(os.environ.get(RECORDS, "."))))
        run.send(type="start", stage=stage, pid=os.getpid(), params=params, inputs=inputs, about=about)
        try:
            yield run
        except (KeyboardInterrupt, SystemExit):
            run._close("KILLED", "stopped by a signal")
            raise
        except BaseException as error:
            run._close("FAILED", sentence(error))
            raise
        run._close("FINISHED", "")

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log `values` at `step`; they appear in MLflow within seconds."""
        self.send(type="metrics", values=values, step=step, time=int(time.time() * 1000))

    def outputs(self, paths: list[Path]) -> None:
        """Log what the stage has made: small files as they are, of others a preview."""
        if self._connection is None:
            return
        from k2core.tracking.outputs import described

        self.send(type="outputs", root=os.getcwd(), outputs=[described(path) for path in paths])

    def trace(self, name: str, messages: list[dict[str, Any]], about: dict[str, Any]) -> None:
        """Log a dialogue."""
        self.send(type="trace", name=name, messages=messages, about=about)

    def send(self, **message: Any) -> None:
        """Send one message; a recorder that has died is reported once and then done without."""
        if self._connection is None:
            return
        try:
            self._connection.sendall(mask(json.dumps(message)).encode() + b"\n")
        except OSError as error:
            self._connection = None
            _say(f"the recorder is gone ({error}); see logs/tracking.log")

    def hang_up(self) -> None:
        """No more messages. The recorder ends once its pipeline's process has ended and everybody has hung up."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _close(self, status: str, error: str) -> None:
        self.send(type="end", status=status, error=error)
        if self._connection is None:
            return
        self._connection.setblocking(False)
        try:
            complaint = self._connection.recv(4096).decode(errors="replace").strip()
        except BlockingIOError:
            complaint = ""
        except OSError as fault:
            complaint = f"the recorder is gone ({fault})"
        self._connection.close()
        if complaint:
            _say(complaint)


def tell(root: Path, **message: Any) -> None:
    """Send one message about the pipeline run to its recorder, which is started if it is not there."""
    run = StageRun(connect(root))
    run.send(**message)
    run.hang_up()


def sentence(error: BaseException) -> str:
    """The error in words: the project's own errors are sentences, others need their kind."""
    words = printable(" ".join(str(error).split()))
    return words if type(error).__module__.startswith("k2core.") else f"{type(error).__name__}: {words}"


def _say(text: str) -> None:
    print(printable(f"tracking: {text}"), file=sys.stderr, flush=True)


def connect(root: Path, pid: int | None = None) -> socket.socket | None:
    """A connection to the recorder of process `pid`, by default this invocation's; it is started if it is not there.

    Returns None, after saying why, if it cannot be started or if the environment says ``K2_TRACKING=off``.
    """
    if os.environ.get("K2_TRACKING") == "off":
        return None
    try:
        return _connect(root, pid or invocation_pid())
    except OSError as error:
        _say(f"nothing is recorded ({error}); outputs are unaffected")
        return None


def _connect(root: Path, pid: int) -> socket.socket:
    """As `connect`.

    Raises:
        OSError: there is no recorder, and none could be started.
    """
    address = socket_path(root, pid)
    deadline = time.monotonic() + START_SECONDS
    started: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(address))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
        if started is None:
            started = _start_recorder(root, pid, address)
        elif started.poll():  # 0: another stage was quicker to start one
            break
        time.sleep(0.05)
    raise OSError("the recorder did not start; see logs/tracking.log")


def _start_recorder(root: Path, pid: int, address: Path) -> subprocess.Popen[bytes]:
    code_root = str(Path(__file__).parents[2])
    place = os.path.relpath(address, root) if not address.is_absolute() else str(address)
    with (log_folder(root) / "tracking.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "k2core.tracking.recorder", "--pid", str(pid), "--socket", place],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([code_root, os.environ.get("PYTHONPATH", "")])},
        )
