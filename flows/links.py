"""Addresses of pages, which resolve while `make ui` runs."""

from __future__ import annotations

import os

from flows.settings import running_pages
from k2core.recipe import mask

PREFECT, MLFLOW = "http://127.0.0.1:4200", "http://127.0.0.1:5000"
"""Where `make ui` listens if it can."""


def flow_run_address(run_id: str) -> str:
    """The page of a flow run: on the server it reports to, else where `make ui` will show it."""
    api = os.environ.get("PREFECT_API_URL", "")
    server = os.environ.get("PREFECT_UI_URL") or api.removesuffix("/api") or PREFECT
    return f"{mask(server).rstrip('/')}/runs/flow-run/{run_id}"


def mlflow_address() -> str:
    """The MLflow server of this workspace's records."""
    configured = os.environ.get("MLFLOW_TRACKING_URI", "")
    if configured.startswith("http"):
        return mask(configured).rstrip("/")
    return running_pages().get("mlflow") or MLFLOW
