"""The recorder: one process per invocation of the pipeline, between its stages and MLflow.

It listens before it imports MLflow, so stages never wait for it. It ends by itself once the pipeline's process is
gone and every stage has hung up. While MLflow cannot be reached, it keeps the records in `logs/tracking-ID.jsonl` and
tries again every few seconds; those that MLflow had not taken at the end can be sent later with
``python -m k2core.tracking.recorder --replay FILE``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import queue
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from k2core.machine.proxies import spare_loopback
from k2core.recipe import mask
from k2core.storage import write_json
from k2core.storage.foreign import one_line
from k2core.storage.private import hide, log_folder
from k2core.tracking.headlines import metrics_of
from k2core.tracking.lock import read_lock
from k2core.tracking.spool import Message, Spool, say

POLL_SECONDS = 0.3
RETRY_SECONDS = 5.0
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
"""What MLflow answers to a record that it will never take: waiting does not help."""
REPLAY = "python -m k2core.tracking.recorder --replay"
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own retries would block for minutes; the spool does that work. The user's settings win."""


class Recorder:
    """Reads messages from any number of stages and plays them to MLflow in order.

    Attributes:
        fault: why MLflow cannot be reached; told to every stage at its end.
    """

    def __init__(self, root: Path, pid: int, spool: Spool) -> None:
        self.root, self.pid, self.spool = root, pid, spool
        self.messages: queue.Queue[Message] = queue.Queue()
        self.fault = ""
        self._again = 0.0
        """When to try again (monotonic)."""
        self._runs: Any = None

    def listen(self, address: Path) -> None:
        """Accept stages for ever, in the background."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address.unlink(missing_ok=True)
        server.bind(str(address))
        server.listen(64)

        def accept() -> None:
            while True:
                connection, _ = server.accept()
                # Different from every number of a killed recorder.
                number = str(time.time_ns())
                self.messages.put((number, {"type": "hello"}))
                threading.Thread(target=self._read, args=(number, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _read(self, number: str, connection: socket.socket) -> None:
        ended = started = False
        try:
            with connection, connection.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    message = {"time": now(), **json.loads(line)}
                    started |= message["type"] == "start"
                    self.messages.put((number, message))
                    if message["type"] == "end":
                        ended = True
                        if self.fault:
                            with suppress(OSError):  # a stage does not wait long to be told
                                connection.sendall(self.fault.encode())
        except (OSError, ValueError) as error:
            say(f"connection {number}: {error}")
        if started and not ended:
            # A stage that hangs up without a farewell was killed: SIGKILL leaves it no other way.
            end = {"type": "end", "status": "KILLED", "error": "the process was killed", "time": now()}
            self.messages.put((number, end))
        self.messages.put((number, {"type": "hangup"}))

    def begin(self, invocation: str, state: dict[str, Any]) -> None:
        """Queue the first record of `invocation`; after a killed recorder, take over its records and its work."""
        self.spool.load(state if state.get("invocation") == invocation else None)
        if not self.spool.messages:
            from k2core.tracking.recipe import against_base

            recipe = asdict(against_base(self.root))
            message = {"type": "begin", "invocation": invocation, "pid": self.pid, "recipe": recipe, "time": now()}
            self.spool.add(("", message))

    def serve(self) -> None:
        """Play messages until the pipeline's process has ended and all stages have hung up."""
        connections: set[str] = set()
        self.deliver()
        while True:
            try:
                number, message = self.messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not connections and not alive(self.pid):
                    break
                self.deliver()
                continue
            if message["type"] == "hello":
                connections.add(number)
            elif message["type"] == "hangup":
                connections.discard(number)
            else:
                self.spool.add((number, message))
                self.deliver()
        self.finish()

    def finish(self) -> None:
        """The last record; a last attempt, if MLflow is away."""
        self.spool.add(("", last_words(self.root)))
        self._again = 0.0
        self.deliver()

    def deliver(self) -> None:
        """Play what waits; if MLflow does not take it, keep it and try again later."""
        if not self.spool.messages or time.monotonic() < self._again:
            return
        try:
            self.spool.play(self.play)
        except ConnectionError as error:
            known = bool(self.fault)
            self.fault = (
                f"MLflow takes no records ({mask(one_line(error))}); outputs are unaffected and the records are kept. "
                "They are sent once it is back; if it stays away until the end of the run, send them then: "
                f"`{REPLAY} {self.spool.path}`"
            )
            if not known:
                say(self.fault)
            self.save()
            self._again = time.monotonic() + RETRY_SECONDS
            return
        if self.fault:
            say("MLflow is back and has all records")
            self.fault, self._again = "", 0.0
            self._runs.watch_again()

    def save(self) -> None:
        """Keep on disk what MLflow has not taken."""
        self.spool.save(self._runs.state() if self._runs and self._runs.parent else None)

    def play(self, numbered: Message) -> None:
        """Hand one message to MLflow.

        Raises:
            ConnectionError: MLflow did not take it, but may later: once its server is back, its database is mended, or
                the driver that its address needs is installed.
        """
        number, message = numbered
        try:
            if self._runs is None:
                from k2core.tracking.runs import PipelineRuns

                self._runs = PipelineRuns(self.root)
        except Exception as error:
            raise ConnectionError(mask(one_line(error))) from error
        try:
            self._play(number, message)
        except Exception as error:
            if getattr(error, "error_code", "") not in REFUSALS:
                raise ConnectionError(one_line(mask(str(error)))) from error
            say(mask(f"MLflow refused a record ({error}): {json.dumps(message)[:2000]}"))

    def _play(self, number: str, message: dict[str, Any]) -> None:
        runs, kind = self._runs, message["type"]
        if kind == "begin":
            runs.begin(message)
        elif kind == "resume":
            runs.resume(message["state"])
        elif kind == "start":
            runs.start_stage(number, message, watch=not self.fault)
        elif kind == "metrics":
            runs.metrics(number, message)
        elif kind == "artifact":
            runs.artifact(number, message)
        elif kind == "end":
            runs.end_stage(number, message)
        elif kind == "tags":
            runs.tag_parent(message["tags"])
        elif kind == "outcome":
            runs.outcome = {key: message[key] for key in ("status", "error", "seconds")}
        elif kind == "finish":
            say(f"pipeline run {runs.parent}: {runs.finish(message)}")
        write_json(self.root / "work" / "tracking.json", runs.state())


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def alive(pid: int) -> bool:
    """Whether process `pid` runs (a zombie does not)."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def last_words(root: Path) -> dict[str, Any]:
    """The message that ends a pipeline run: what the workspace is like now, which may be sent much later."""
    lock = [asdict(stage) for stage in read_lock(root).values()]
    return {"type": "finish", "time": now(), "lock": lock, "metrics": metrics_of(root)}


def _known(root: Path) -> dict[str, Any]:
    """What the previous recorder, which may have been killed, left of its state."""
    path = root / "work" / "tracking.json"
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        known = None
    return known if isinstance(known, dict) else {}


def replay(root: Path, path: Path) -> None:
    """Send what a recorder could not, from its file, which is then removed.

    Raises:
        SystemExit: the file is not there, or MLflow does not take the records; they are kept.
    """
    if not path.exists():
        raise SystemExit(f"{path}: no such file; it is removed once MLflow has its records")
    spool = Spool(path)
    spool.load(None)
    if not any(message["type"] == "finish" for _, message in spool.messages):
        spool.add(("", last_words(root)))  # the recorder was killed before it could
    recorder = Recorder(root, 0, spool)
    recorder.deliver()
    if recorder.fault:
        raise SystemExit(recorder.fault)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pid", type=int, default=0, help="the process whose life is the pipeline run")
    parser.add_argument("--socket", type=Path, help="where to listen")
    parser.add_argument("--replay", type=Path, help="send the records kept in this file, then remove it")
    options = parser.parse_args()
    root = Path.cwd()
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    if options.replay:
        replay(root, options.replay)
        return
    os.umask(0o077)  # what is recorded is this user's business: recipes, paths, what servers said
    spare_loopback()
    hide(root / "mlflow.db")
    lock = options.socket.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another stage of this invocation was quicker to start one
    invocation = options.socket.stem
    recorder = Recorder(root, options.pid, Spool(log_folder(root) / f"tracking-{invocation}.jsonl"))
    recorder.listen(options.socket)
    try:
        recorder.begin(invocation, _known(root))
        recorder.serve()
    except Exception:
        recorder.save()
        say(f"the recorder died; what it had is kept: `{REPLAY} {recorder.spool.path}`")
        raise
    options.socket.unlink(missing_ok=True)
    Path(lock.name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
