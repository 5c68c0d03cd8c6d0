"""Where MLflow's records are (without importing MLflow)."""

from __future__ import annotations

import os
from pathlib import Path


def tracking_uri(root: Path) -> str:
    """MLflow's usual setting, else a sqlite file in the workspace (absolute: a relative one depends on the cwd)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"
