"""A running `make ui` for tests: its workspace, its addresses, its API and its processes."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx
from workspace import Workspace


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


class Pages:
    """`make ui` in `toy`, until `stop`."""

    def __init__(self, toy: Workspace) -> None:
        # Not in the workspace, where applying an experiment of DVC replaces untracked files.
        self.toy, self.log = toy, toy.root.with_name("pages.txt")
        toy.env |= {"PREFECT_WORKER_QUERY_SECONDS": "1"}
        self.begin()

    def begin(self) -> None:
        """Start it, or start it again."""
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                ["python", "-m", "flows.pages"], cwd=self.toy.root, env=self.toy.env, stdout=file, stderr=file
            )
        wait_until(lambda: "Ctrl-C" in self.said() or self.process.poll() is not None, 300, "no page in time")
        assert self.process.poll() is None, self.said()
        self.links = re.findall(r"^(?:Prefect|MLflow) +(\S+)", self.said(), re.MULTILINE)
        self.prefect, self.mlflow = (link.partition("/open#")[0] for link in self.links)
        user, password = self.links[0].partition("#")[2].partition(",")[0].split(":")
        self.client = httpx.Client(auth=(user, password), timeout=30)

    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text()

    def api(self, path: str, **filters: object) -> list[dict[str, Any]]:
        """What Prefect's API finds."""
        answer = self.client.post(f"{self.prefect}/api/{path}/filter", json=filters)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def api_get(self, path: str) -> dict[str, Any]:
        """One object of Prefect's API; empty while the server is away."""
        try:
            return dict(self.client.get(f"{self.prefect}/api/{path}").raise_for_status().json())
        except httpx.HTTPError:
            return {}

    def start(self, deployment: str, *overrides: str) -> str:
        """Start a run of the chain, as the form does; its id."""
        return self.start_with(deployment, {"overrides": list(overrides)})

    def start_with(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a run with any parameters; its id."""
        (found,) = self.api("deployments", deployments={"name": {"any_": [deployment]}})
        answer = self.client.post(
            f"{self.prefect}/api/deployments/{found['id']}/create_flow_run", json={"parameters": parameters}
        )
        return str(answer.raise_for_status().json()["id"])

    def cancel(self, run: str) -> None:
        """Cancel a run, as the page does."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
        self.client.post(f"{self.prefect}/api/flow_runs/{run}/set_state", json=body).raise_for_status()

    def await_state(self, run: str, state: str, seconds: float) -> None:
        """Wait until a run is in a state."""
        wait_until(
            lambda: self.api_get(f"flow_runs/{run}").get("state_type") == state, seconds,
            f"run {run} did not become {state}:\n{self.worker_log()}",
        )  # fmt: skip

    def worker_log(self) -> str:
        """The last lines of the worker's output."""
        return (self.toy.root / "logs" / "worker.log").read_text()[-3000:]

    def server(self, name: str) -> int:
        """The process id of a part of `make ui`."""
        word = {"worker": "worker start", "prefect-server": "server start", "mlflow-server": "flows.mlflow_server"}[
            name
        ]
        return self.toy.processes(word)[0].pid

    def children(self) -> list:
        """Processes that must be gone once it has ended."""
        return [p for word in ("prefect", "mlflow", "stages.") for p in self.toy.processes(word)]

    def stop(self) -> None:
        """Stop it as Ctrl-C, or a service manager, does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(70)
