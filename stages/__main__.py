"""Keeps the graph, the recipe and the stages in step: `python -m stages check | deps | use NAME`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import typer

from stages.checks import GRAPH, recipe_faults
from stages.closure import rewrite

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def check(recipe: Path = typer.Argument(Path("params.yaml"))) -> None:
    """Check a recipe: each section against the stage that reads it, then all of them together; one line per fault."""
    faults = recipe_faults(recipe)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise typer.Exit(1)
    print(f"{recipe}: every section is valid, and has what it needs of the others")


@app.command()
def deps() -> None:
    """Bring the code dependencies in dvc.yaml up to date with the stages' imports."""
    before = GRAPH.read_text()
    after = rewrite(before, Path("."))
    GRAPH.write_text(after)
    print("dvc.yaml: " + ("unchanged" if before == after else "code dependencies rewritten"))


@app.command()
def use(name: str) -> None:
    """Make recipes/NAME.yaml the active recipe (params.yaml); DVC then re-runs what it changes."""
    source = Path("recipes") / f"{name}.yaml"
    if not source.exists():
        print(f"no recipe {name}; there are: {', '.join(sorted(p.stem for p in source.parent.glob('*.yaml')))}")
        raise typer.Exit(1)
    faults = recipe_faults(source)
    if faults:
        print("\n".join(faults), file=sys.stderr)
        raise typer.Exit(1)
    shutil.copyfile(source, "params.yaml")
    print(f"params.yaml is now {source}; `dvc params diff` shows what changed, `make demo` runs it")


if __name__ == "__main__":
    app()
