"""The chain at a terminal: `python -m flows.pipeline`. `make ui` offers the same on the Prefect page.

Each stage of `dvc.yaml` is a task of its name that runs ``dvc repro --single-item STAGE``. Prefect orders, retries
and shows; all its caching is off, because DVC alone decides what must run. The run reports to the server that
`make ui` has started, or that ``PREFECT_API_URL`` names. With neither, a temporary server lives as long as the run;
its history stays in `.prefect/` for `make ui`.
"""

from __future__ import annotations

import signal
import sys
import time

import typer

from flows.settings import ROOT, apply_settings

ENDS = {"the report": "report/index.html", "the model": "models/export"}
"""What a person looks at first."""
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(help=__doc__)
def run(
    recipe: str = typer.Option("", help="make recipes/RECIPE.yaml the active recipe first"),
    set: list[str] = typer.Option([], help="change a key of params.yaml, e.g. rl.tau=0.2 (repeatable)"),
    target: list[str] = typer.Option([], help="only this stage and what it needs (repeatable)"),
    from_stage: str = typer.Option("", "--from", help="only this stage and what follows it"),
    force: bool = typer.Option(False, help="run unchanged stages too"),
) -> None:
    """Run the chain."""
    apply_settings()
    from flows.choice import Choice, recipe_names
    from flows.graph import read_graph
    from k2core.tracking.holding import hold

    if recipe and recipe not in recipe_names(ROOT):
        raise SystemExit(f"no recipe {recipe}; there are: {', '.join(recipe_names(ROOT))}")
    with hold(ROOT, {"doing": "reading the graph"}):
        try:
            Choice(recipe or None, tuple(set)).apply(ROOT)
        except ValueError as error:
            raise SystemExit(str(error)) from None
        graph = read_graph(ROOT, tuple(target), from_stage, look=True)
    if graph.lacking:
        raise SystemExit(graph.lacking)
    if not graph.changed and not force:
        print(f"all {len(graph.stages)} stages are up to date; nothing to run (`make ui` shows the last run)")
        return
    from prefect.exceptions import TerminationSignal

    from flows.cancelling import CANCELLED, CANCELLED_STATUS
    from flows.chain import AS_IT_IS, BEGINNING, pipeline

    def end(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    # Prefect handles SIGTERM within a flow, then sends it again: the default action would leave its server behind.
    signal.signal(signal.SIGTERM, end)
    started = time.monotonic()
    try:
        state = pipeline(recipe or AS_IT_IS, set, target, from_stage or BEGINNING, force, return_state=True)
    except (KeyboardInterrupt, TerminationSignal):
        state = None
    if state is None or state.is_cancelled():
        print(CANCELLED, file=sys.stderr)
        raise typer.Exit(CANCELLED_STATUS)
    if not state.is_completed():
        print(f"the chain did not finish: {state.message}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"the chain took {time.monotonic() - started:.0f} s")
    for what, path in ENDS.items():
        if (ROOT / path).exists():
            print(f"  {what:<10} {path}")
    print("  the pages  make ui")
    print("  to talk    make chat")
    for kept in (ROOT / "logs").glob("tracking-*.jsonl"):
        print(f"MLflow was away; send it the records: python -m k2core.tracking.recorder --replay logs/{kept.name}")


if __name__ == "__main__":
    app()
