"""The server processes of `make ui`: started again if they die, and ended with it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess

from flows.settings import ROOT
from flows.workspace import end_groups
from k2core.machine.descendants import end_with_parent
from k2core.storage import write_json
from k2core.storage.private import log_folder
from k2core.tracking.address import lives

WORKER = "worker"
WORKER_PATIENCE_SECONDS = 45.0
"""Prefect's worker gives the runs that it ends 30 s."""
MOST_DEATHS = 3
NOTED = ROOT / "work" / "servers.json"
"""Server → its process id and when it began, while `make ui` runs."""

CLAIMS: list[socket.socket] = []
"""Open as long as this process lives: what `free_address` has given out."""


class Servers:
    """Server processes that are started again if they die, and end with this process or before its successor begins."""

    def __init__(self) -> None:
        self.commands: dict[str, tuple[str, ...]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.deaths: dict[str, int] = {}

    def start(self, name: str, *words: str) -> None:
        """Start a server; its output is added to `logs/NAME.log`."""
        self.commands[name] = words
        # The servers' databases are this user's alone; the worker's runs make outputs, whose modes the user decides.
        umask = -1 if name == WORKER else 0o077
        with (log_folder(ROOT) / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=end_with_parent, umask=umask,
            )  # fmt: skip
        self._note()

    def start_again(self, name: str) -> None:
        """End a server and start it anew."""
        end_groups([self.running[name].pid])
        self.start(name, *self.commands[name])

    def await_answer(self, name: str, address: str) -> None:
        """Wait until a server answers.

        Raises:
            SystemExit: it ended, or did not answer within five minutes, which a busy machine may need.
        """
        import httpx
        from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

        @retry(
            retry=retry_if_exception_type(httpx.HTTPError),
            wait=wait_fixed(0.3),
            stop=stop_after_delay(300),
            reraise=True,
        )
        def ask() -> None:
            if self.running[name].poll() is not None:
                raise SystemExit(f"{name} has ended; logs/{name}.log says why")
            httpx.get(address, trust_env=False)

        try:
            ask()
        except httpx.HTTPError as error:
            raise SystemExit(f"{name} does not answer at {address} ({error}); logs/{name}.log says why") from None

    def mend(self) -> None:
        """Start again what has died.

        Raises:
            SystemExit: a server has died for the third time.
        """
        for name, process in self.running.items():
            if process.poll() is None:
                continue
            about = f"{name} has ended with status {process.returncode}; logs/{name}.log says why"
            self.deaths[name] = self.deaths.get(name, 0) + 1
            if self.deaths[name] >= MOST_DEATHS:
                raise SystemExit(about)
            print(f"{about}; starting it again", flush=True)
            self.start(name, *self.commands[name])

    def stop(self) -> None:
        """End them all, the worker first: it ends its runs, which still have something to tell the server.

        A worker that is interrupted at the wrong moment leaves its run behind, in a session of its own.
        """
        import psutil

        workers, runs = [process.pid for name, process in self.running.items() if name == WORKER], list[int]()
        for pid in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                runs += [child.pid for child in psutil.Process(pid).children()]
        for leaders in (workers, runs):
            end_groups(leaders, patience=WORKER_PATIENCE_SECONDS)
        end_groups(process.pid for process in self.running.values())
        NOTED.unlink(missing_ok=True)

    def _note(self) -> None:
        """Write down who is running, for `end_leftovers`."""
        import psutil

        born = {}
        for name, process in self.running.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                born[name] = [process.pid, psutil.Process(process.pid).create_time()]
        write_json(NOTED, born)


def free_address(preferred: str) -> str:
    """`preferred`, or the same host with the next free port: this process's until it ends.

    A server needs seconds until it listens. Until then, and while it is started again, the UDP port of the same number
    is what tells the `make ui` of another workspace that the port is taken: the kernel gives it to one process alone,
    whoever its user is, and frees it when that process dies.
    """
    host, _, port = preferred.removeprefix("http://").partition(":")
    for candidate in range(int(port), int(port) + 100):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, candidate))
            claim.bind((host, candidate))
            CLAIMS.append(claim)
            return f"http://{host}:{candidate}"
        claim.close()
    raise SystemExit(f"no free port from {port} on; end what listens there")


def end_leftovers(patience: float = WORKER_PATIENCE_SECONDS) -> None:
    """End what has outlived a `make ui` that was killed, and say so.

    The kernel has sent SIGTERM to all of them (`end_with_parent`). But a worker then waits for its runs and asks its
    server, which has ended, again and again; a server of the next `make ui` would give it runs.
    """
    try:
        noted: dict[str, tuple[int, float]] = json.loads(NOTED.read_text())
    except (FileNotFoundError, ValueError):
        return
    left = {name: pid for name, (pid, born) in noted.items() if lives(pid, born)}
    if left:
        who = ", ".join(f"{name} (pid {pid})" for name, pid in left.items())
        print(f"ending what a `make ui` that was killed has left: {who}", flush=True)
        end_groups(left.values(), patience)
    NOTED.unlink(missing_ok=True)
