"""MLflow's own server behind `Guard`: `python -m flows.mlflow_server --port …`, with the options of `mlflow server`."""

from __future__ import annotations

import sys
from typing import Any


def __getattr__(name: str) -> Any:
    """`app`, for uvicorn, whose process is the only one to import MLflow's server."""
    if name != "app":
        raise AttributeError(name)
    from mlflow.server.fastapi_app import app

    from flows.access import Guard, secret

    return Guard(app, word=secret("mlflow"))


if __name__ == "__main__":
    import mlflow.server
    from mlflow.cli import cli

    build = mlflow.server._build_uvicorn_command

    def guarded(opts: Any, host: str, port: int, workers: int, app: str, *rest: Any) -> list[str]:
        """MLflow's command, with our application for its own."""
        return build(opts, host, port, workers, "flows.mlflow_server:app", *rest)

    mlflow.server._build_uvicorn_command = guarded
    cli(["server", *sys.argv[1:]])
