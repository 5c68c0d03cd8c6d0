"""The pages of this workspace until Ctrl-C (`make ui`): Prefect with a worker for its runs, and MLflow."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import typer

from flows.links import MLFLOW, PREFECT
from flows.settings import PAGES, ROOT, apply_settings, running_pages
from flows.workspace import end_groups
from k2core.tracking.experiment import runs_page
from k2core.tracking.uri import tracking_uri

POOL = "k2"
MOST_DEATHS = 3
BIN = Path(sys.executable).parent


class Servers:
    """Server processes that are started again if they die, and end with this process, whatever ends it."""

    def __init__(self) -> None:
        self.commands: dict[str, tuple[str, ...]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.deaths: dict[str, int] = {}

    def start(self, name: str, *words: str) -> None:
        """Start a server; its output is added to `logs/NAME.log`."""
        self.commands[name] = words
        (ROOT / "logs").mkdir(exist_ok=True)
        with (ROOT / "logs" / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_end_with_parent,
            )  # fmt: skip

    def await_answer(self, name: str, address: str) -> None:
        """Wait until a server answers.

        Raises:
            SystemExit: it ended, or did not answer within 90 seconds.
        """
        import httpx
        from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

        @retry(
            retry=retry_if_exception_type(httpx.HTTPError),
            wait=wait_fixed(0.3),
            stop=stop_after_delay(90),
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
        """End them all."""
        end_groups(process.pid for process in self.running.values())


def main() -> None:
    """Start everything, print where it is, end everything when one part ends or on Ctrl-C or SIGTERM."""
    apply_settings()
    other = running_pages()
    if other:
        raise SystemExit(
            f"`make ui` is running for this workspace already (pid {other['pid']}): "
            f"Prefect {other['prefect']}, MLflow {other['mlflow']}"
        )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    prefect, mlflow = free_address(PREFECT), free_address(MLFLOW)
    os.environ.update(PREFECT_API_URL=f"{prefect}/api", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    servers = Servers()
    try:
        print("starting (up to a minute the first time) …", flush=True)
        port = prefect.rpartition(":")[2]
        servers.start("prefect-server", sys.executable, "-m", "flows.server", "server", "start", "--port", port)
        servers.start(
            "mlflow-server", str(BIN / "mlflow"), "server", "--backend-store-uri", tracking_uri(ROOT), "--workers", "1",
            "--port", mlflow.rpartition(":")[2], "--artifacts-destination", (ROOT / "mlartifacts").as_uri(),
        )  # fmt: skip
        servers.await_answer("prefect-server", f"{prefect}/api/health")
        deploy()
        from flows.automations import make_automations  # which imports Prefect, as set up above

        make_automations()
        servers.start("worker", str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--type", "process")
        servers.await_answer("mlflow-server", f"{mlflow}/health")
        with _announced(prefect, mlflow):
            print(f"Prefect  {prefect}/deployments   start, schedule and watch runs")
            print(f"MLflow   {runs_page(ROOT, mlflow)}   compare runs")
            print("Runs of `make demo` show there too. Ctrl-C ends the pages and what runs there.", flush=True)
            while True:
                servers.mend()
                time.sleep(0.5)
    except KeyboardInterrupt:
        print("ending", flush=True)
    finally:
        servers.stop()


def deploy() -> None:
    """Make the pool and offer its deployments of `prefect.yaml` on the server.

    Raises:
        SystemExit: Prefect does not accept them; the sentence says why.
    """
    import yaml

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    names = [entry["name"] for entry in deployments if entry["work_pool"]["name"] == POOL]
    prefect = str(BIN / "prefect")
    for words in (
        [prefect, "work-pool", "create", POOL, "--type", "process", "--overwrite"],
        # Two runs in one folder would remove each other's outputs.
        [prefect, "work-pool", "set-concurrency-limit", POOL, "1"],
        [prefect, "--no-prompt", "deploy", *(word for name in names for word in ("--name", name))],
    ):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"`prefect {' '.join(words[1:3])}` failed: {' '.join((done.stdout + done.stderr).split())[-600:]}"
            )


def free_address(preferred: str) -> str:
    """`preferred`, or the same host with the next free port."""
    host, _, port = preferred.removeprefix("http://").partition(":")
    for candidate in range(int(port), int(port) + 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, candidate))
            return f"http://{host}:{candidate}"
    raise SystemExit(f"no free port from {port} on; end what listens there")


@contextlib.contextmanager
def _announced(prefect: str, mlflow: str) -> Iterator[None]:
    """Tell other commands in this workspace where the pages are."""
    import psutil

    PAGES.parent.mkdir(exist_ok=True)
    me = {"pid": str(os.getpid()), "born": str(psutil.Process().create_time())}
    PAGES.write_text(json.dumps({**me, "prefect": prefect, "mlflow": mlflow}))
    try:
        yield
    finally:
        PAGES.unlink(missing_ok=True)


def _end_with_parent() -> None:
    """In a server's process: SIGTERM when `make ui` dies, even of SIGKILL (Linux only)."""
    PR_SET_PDEATHSIG = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
