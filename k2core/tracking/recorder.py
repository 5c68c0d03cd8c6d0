"""The recorder: one process an invocation of the pipeline, between its stages and MLflow.

It listens before it imports MLflow, so stages never wait for it. It ends by itself once the pipeline's process is
gone and every stage has hung up. What it could not deliver is kept in `logs/tracking-PID.jsonl` and can be sent
later with ``python -m k2core.tracking.recorder --replay FILE``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from k2core.storage import write_json

POLL_SECONDS = 0.3


class Recorder:
    """Reads messages from any number of stages and plays them to MLflow in order."""

    def __init__(self, root: Path, pid: int, spool: Path) -> None:
        self.root, self.pid, self.spool = root, pid, spool
        self.messages: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self.fault = ""
        """Why MLflow cannot be reached; told to every stage at its end."""
        self._runs: Any = None
        self._stages: dict[int, tuple[str, str]] = {}
        """Connection number → (stage, run id) of stages under way."""

    def listen(self, address: Path) -> None:
        """Accept stages for ever, in the background."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address.unlink(missing_ok=True)
        server.bind(str(address))
        server.listen(64)

        def accept() -> None:
            number = 0
            while True:
                connection, _ = server.accept()
                number += 1
                self.messages.put((number, {"type": "hello"}))
                threading.Thread(target=self._read, args=(number, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _read(self, number: int, connection: socket.socket) -> None:
        ended = False
        try:
            with connection, connection.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    message = json.loads(line)
                    if message["type"] == "end":
                        ended = True
                        if self.fault:
                            connection.sendall(self.fault.encode())
                    self.messages.put((number, message))
        except (OSError, ValueError) as error:
            print(f"connection {number}: {error}", flush=True)
        if not ended:
            # A stage that hangs up without a farewell was killed: SIGKILL leaves it no other way.
            self.messages.put((number, {"type": "end", "status": "KILLED", "error": "the process was killed"}))
        self.messages.put((number, {"type": "hangup"}))

    def serve(self) -> None:
        """Play messages until the pipeline's process has ended and all stages have hung up."""
        connections: set[int] = set()
        while True:
            try:
                number, message = self.messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not connections and not alive(self.pid):
                    break
                continue
            if message["type"] == "hello":
                connections.add(number)
            elif message["type"] == "hangup":
                connections.discard(number)
            else:
                self._deliver(number, message)
        self._deliver(0, {"type": "finish"})

    def replay(self, messages: Iterator[tuple[int, dict[str, Any]]]) -> None:
        """Deliver messages that were kept while MLflow could not be reached."""
        for number, message in messages:
            self.play(number, message)

    def _deliver(self, number: int, message: dict[str, Any]) -> None:
        """Play one message, or keep it, and everything after it, if MLflow does not take it."""
        from mlflow.exceptions import MlflowException

        if not self.fault:
            try:
                self.play(number, message)
                return
            except (MlflowException, OSError) as error:
                reason = " ".join(str(error).split())[:300]
                self.fault = (
                    f"MLflow took no more records ({reason}); outputs are unaffected and the records are kept. "
                    f"When it is back, send them: `python -m k2core.tracking.recorder --replay {self.spool}`"
                )
                print(self.fault, flush=True)
        with self.spool.open("a") as file:
            file.write(json.dumps([number, message]) + "\n")

    def play(self, number: int, message: dict[str, Any]) -> None:
        """Hand one message to MLflow."""
        if self._runs is None:
            from k2core.tracking.runs import PipelineRuns

            self._runs = PipelineRuns(self.root, self.pid)
        runs, kind = self._runs, message["type"]
        if kind == "start":
            self._stages[number] = (message["stage"], runs.start_stage(message))
        elif kind == "tags":
            runs.tag_parent(message["tags"])
        elif kind == "finish":
            print(f"pipeline run {runs.parent}: {runs.finish()}", flush=True)
        elif number in self._stages:
            stage, run_id = self._stages[number]
            if kind == "metrics":
                runs.metrics(run_id, message)
            elif kind == "artifact":
                runs.client.log_artifact(run_id, message["path"])
            elif kind == "end":
                runs.end_stage(stage, run_id, message["status"], message["error"])
                del self._stages[number]
        write_json(
            self.root / "work" / "tracking.json",
            {
                "experiment": runs.experiment_id,
                "parent": runs.parent,
                "pid": self.pid,
                "stages": runs.stages,
            },
        )


def alive(pid: int) -> bool:
    """Whether process `pid` runs (a zombie does not)."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pid", type=int, default=0, help="the process whose life is the pipeline run")
    parser.add_argument("--socket", type=Path, help="where to listen")
    parser.add_argument("--replay", type=Path, help="send the records kept in this file, then remove it")
    options = parser.parse_args()
    root = Path.cwd()
    if options.replay:
        lines = options.replay.read_text().splitlines()
        Recorder(root, 0, options.replay).replay(tuple(json.loads(line)) for line in lines)
        options.replay.unlink()
        print(f"sent {len(lines)} records to MLflow")
        return
    lock = options.socket.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another stage of this invocation was quicker to start one
    recorder = Recorder(root, options.pid, root / "logs" / f"tracking-{options.pid}.jsonl")
    recorder.listen(options.socket)
    recorder.serve()
    options.socket.unlink(missing_ok=True)
    Path(lock.name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
