"""The pages of this workspace until Ctrl-C (`make ui`): Prefect with a worker for its runs, and MLflow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.access import link, prefect_login, secret
from flows.links import MLFLOW, PREFECT
from flows.records import Records
from flows.servers import WORKER, Servers, end_leftovers, free_address
from flows.settings import PAGES, ROOT, apply_settings, running_pages
from k2core.recipe import mask
from k2core.storage import write_json
from k2core.tracking.experiment import runs_page
from k2core.tracking.holding import hold
from k2core.tracking.uri import tracking_uri

if TYPE_CHECKING:
    import httpx

POOL = "k2"
BIN = Path(sys.executable).parent


def main() -> None:
    """Start everything, print where it is, end everything when one part cannot be kept alive, on Ctrl-C or SIGTERM."""
    from filelock import FileLock, Timeout

    apply_settings()
    PAGES.parent.mkdir(exist_ok=True)
    only = FileLock(PAGES.with_suffix(".lock"))
    try:
        only.acquire(timeout=0)
    except Timeout:
        other = running_pages()
        if "prefect" in other:
            where = f"pid {other['pid']}: Prefect {_prefect_link(other['prefect'])}"
            raise SystemExit(f"`make ui` is running for this workspace already ({where})") from None
        who = f"pid {other['pid']}" if other else "its process is not known yet"
        raise SystemExit(
            f"`make ui` is starting for this workspace in another terminal ({who}), which takes up to a minute; it "
            "prints the addresses there, and here if you type `make ui` again then"
        ) from None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    end_leftovers()
    prefect = free_address(PREFECT)
    login = os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", prefect_login())
    os.environ.update(PREFECT_API_URL=f"{prefect}/api", PREFECT_API_AUTH_STRING=login)
    os.environ.update(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    servers = Servers()
    _announce()
    try:
        print("starting (up to a minute the first time) …", flush=True)
        port = prefect.rpartition(":")[2]
        servers.start("prefect-server", sys.executable, "-m", "flows.server", "server", "start", "--port", port)
        mlflow = start_mlflow(servers)
        servers.await_answer("prefect-server", f"{prefect}/api/health")
        deploy()
        bury()
        from flows.automations import make_automations  # which imports Prefect, as set up above

        make_automations()
        servers.start(WORKER, str(BIN / "prefect"), "worker", "start", "--pool", POOL, "--type", "process")
        if "mlflow-server" in servers.running:
            servers.await_answer("mlflow-server", f"{mlflow}/health")
        _announce(prefect=prefect, mlflow=mlflow)
        print(f"Prefect  {_prefect_link(prefect)}   start, schedule and watch runs")
        print(f"MLflow   {_mlflow_link(mlflow)}   compare runs")
        print("These links let in whoever has them, to all that you may do here: keep them to yourself.")
        print("Runs of `make demo` show there too. Ctrl-C ends the pages and what runs there.", flush=True)
        records = Records(ROOT)
        while True:
            servers.mend()
            if said := records.lost():
                print(said, flush=True)
                servers.start_again("mlflow-server")  # it would show the file that it has open
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("ending", flush=True)
    finally:
        PAGES.unlink(missing_ok=True)
        servers.stop()


def start_mlflow(servers: Servers) -> str:
    """Start a server for the workspace's records, unless they are on one already; its address."""
    records = tracking_uri(ROOT)
    if records.startswith("http"):
        return mask(records).rstrip("/")
    address = free_address(MLFLOW)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = records  # every user sees a command line, with the password in it
    servers.start(
        "mlflow-server", sys.executable, "-m", "flows.mlflow_server", "--workers", "1",
        "--port", address.rpartition(":")[2], "--artifacts-destination", (ROOT / "mlartifacts").as_uri(),
    )  # fmt: skip
    return address


def _prefect_link(server: str) -> str:
    return link(server, os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or prefect_login(), "deployments")


def _mlflow_link(server: str) -> str:
    """Without the secret if the server is the user's own, which has a login of its own, if any."""
    page = runs_page(ROOT)
    ours = not tracking_uri(ROOT).startswith("http")
    return link(server, secret("mlflow"), page) if ours else f"{server}/{page}"


def deploy() -> None:
    """Make the pool and offer `prefect.yaml`'s deployments for it on the server. Schedules set on the page stay.

    Raises:
        SystemExit: Prefect does not accept them; the sentence says why.
    """
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    pool = WorkPoolCreate(
        name=POOL,
        type="process",
        base_job_template=ProcessWorker.get_default_base_job_template(),
        concurrency_limit=1,  # two runs in one folder would remove each other's outputs
    )
    with get_client(sync_client=True) as client:
        client.create_work_pool(pool, overwrite=True)
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    names = [word for entry in entries if entry["work_pool"]["name"] == POOL for word in ("--name", entry["name"])]
    schedules = _schedules()
    words = [str(BIN / "prefect"), "--no-prompt", "deploy", *names]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-600:]
        raise SystemExit(f"`prefect deploy` failed: {said}")
    _put_back(schedules)


def _schedules() -> dict[str, list[dict[str, Any]]]:
    """Deployment → its schedules on the server. `prefect deploy` replaces them with those of the file."""
    return {found["id"]: found["schedules"] for found in _api("POST", "deployments/filter", {}).json()}


def _put_back(schedules: dict[str, list[dict[str, Any]]]) -> None:
    """Make the schedules of deployments that were there before what they were."""
    kept = ("schedule", "active", "parameters", "slug", "max_scheduled_runs")
    for deployment, wanted in schedules.items():
        for now in _api("GET", f"deployments/{deployment}").json()["schedules"]:
            _api("DELETE", f"deployments/{deployment}/schedules/{now['id']}")
        if wanted:
            bodies = [{key: one[key] for key in kept if one.get(key) is not None} for one in wanted]
            _api("POST", f"deployments/{deployment}/schedules", bodies)


def _api(method: str, path: str, body: Any = None) -> httpx.Response:
    import httpx

    address, login = f"{os.environ['PREFECT_API_URL']}/{path}", os.environ["PREFECT_API_AUTH_STRING"].partition(":")
    return httpx.request(
        method, address, json=body, auth=(login[0], login[2]), timeout=60, trust_env=False
    ).raise_for_status()


def bury() -> None:
    """Mark as crashed what the server believes under way, if no run holds the workspace: its process is gone.

    That is runs of this workspace's pool and those that were started at a terminal, maybe while no pages were there to
    miss their signs of life. Other pools have workers elsewhere.
    """
    try:
        with hold(ROOT, {"doing": "starting `make ui`"}):
            body = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}}
            for run in _api("POST", "flow_runs/filter", body).json():
                if run["work_pool_name"] in (None, POOL):
                    state = {"type": "CRASHED", "name": "Crashed", "message": "its process is gone; start it again"}
                    _api("POST", f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    except SystemExit:
        pass  # a run at a terminal is under way, and may be one of these


def _announce(**addresses: str) -> None:
    """Tell other commands in this workspace who starts the pages and, once they answer, where they are."""
    import psutil

    me = {"pid": str(os.getpid()), "born": str(psutil.Process().create_time())}
    write_json(PAGES, {**me, **addresses})


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
