"""The pages of this workspace: Prefect and MLflow servers side by side until Ctrl-C (`make ui`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flows.pipeline import ROOT, SETTINGS
from flows.workspace import end_group
from k2core.tracking.uri import tracking_uri

PREFECT_PORT, MLFLOW_PORT = 4200, 5000


def main() -> None:
    """Start both servers, print where they are, end both when one ends or on Ctrl-C."""
    bin_folder = Path(sys.executable).parent
    environment = {**SETTINGS, **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    commands = {
        "Prefect": ([bin_folder / "prefect", "server", "start", "--port", str(PREFECT_PORT)], PREFECT_PORT),
        "MLflow": (
            [
                bin_folder / "mlflow",
                "server",
                "--backend-store-uri",
                tracking_uri(ROOT),
                "--workers",
                "1",
                "--port",
                str(MLFLOW_PORT),
                "--artifacts-destination",
                (ROOT / "mlartifacts").as_uri(),
            ],
            MLFLOW_PORT,
        ),
    }
    (ROOT / "logs").mkdir(exist_ok=True)
    servers, addresses = [], {}
    for name, (words, port) in commands.items():
        log = (ROOT / "logs" / f"{name.lower()}-server.log").open("w")
        servers.append(
            subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        )
        addresses[name] = f"http://127.0.0.1:{port}"
    print("starting (up to a minute the first time) …", flush=True)
    for name, address in addresses.items():
        answered = _wait(address)
        print(
            f"{name:<8} {address}" if answered else f"{name} does not answer: see logs/{name.lower()}-server.log",
            flush=True,
        )
    print("Runs go to this Prefect server too with  PREFECT_API_URL=http://127.0.0.1:4200/api make demo")
    print("Ctrl-C ends both.", flush=True)
    try:
        os.waitpid(-1, 0)
        print("one of the servers has ended; its output says why", file=sys.stderr)
    except KeyboardInterrupt:
        print("ending both")
    finally:
        for server in servers:
            end_group(server)


def _wait(address: str) -> bool:
    import httpx
    from tenacity import RetryError, retry, retry_if_exception_type, stop_after_delay, wait_fixed

    @retry(retry=retry_if_exception_type(httpx.HTTPError), wait=wait_fixed(0.5), stop=stop_after_delay(90))
    def ask() -> None:
        httpx.get(address)

    try:
        ask()
    except RetryError:
        return False
    return True


if __name__ == "__main__":
    main()
