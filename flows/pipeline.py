"""The chain as one Prefect flow: `python -m flows.pipeline` runs it, `python -m flows.pipeline serve` offers it.

Each stage of `dvc.yaml` is a task of its name that runs ``dvc repro --single-item STAGE``. Prefect orders, retries
and shows; all its caching is off, because DVC alone decides what must run. With no Prefect server configured
(``PREFECT_API_URL``) a temporary one lives as long as the run; its history stays in `.prefect/` for `make ui`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import typer

ROOT = Path(__file__).parents[1]
SETTINGS = {
    "PREFECT_HOME": str(ROOT / ".prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Everything of Prefect's inside the project; set before Prefect is imported, never over the user's own."""

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    target: list[str] = typer.Option(
        [], help="run this stage and what it needs (repeatable); default: the whole chain"
    ),
    force: bool = typer.Option(False, help="run every stage, changed or not"),
) -> None:
    """Run the chain."""
    if context.invoked_subcommand:
        return
    _settings()
    from flows.graph import read_graph
    from flows.workspace import hold

    with hold(ROOT, {"doing": "reading the graph"}):
        graph = read_graph(ROOT, tuple(target))
    if not graph.changed and not force and "PREFECT_API_URL" not in os.environ:
        print(f"all {len(graph.stages)} stages are up to date; nothing to run (`make ui` shows the last run)")
        return
    from flows.chain import pipeline

    started = time.monotonic()
    try:
        pipeline(targets=list(target), force=force)
    except KeyboardInterrupt:
        print("cancelled; every stage's process has ended, `dvc repro` continues from here", file=sys.stderr)
        raise typer.Exit(130) from None
    except Exception as error:  # noqa: BLE001 (the flow has logged the whole story; the shell needs sentence and status)
        print(f"the chain did not finish: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"the chain took {time.monotonic() - started:.0f} s")


@app.command()
def serve(
    cron: str = typer.Option("", help="schedule, e.g. '0 3 * * *'; without it runs start from the Prefect page"),
) -> None:
    """Offer the flow as a deployment on the configured Prefect server: start, schedule and cancel it there."""
    _settings()
    from flows.chain import pipeline

    pipeline.serve(name="k2", cron=cron or None, limit=1, pause_on_shutdown=False)


def _settings() -> None:
    os.chdir(ROOT)
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


if __name__ == "__main__":
    app()
