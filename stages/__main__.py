"""Keeps the graph, the recipe and the stages in step: `python -m stages check | deps | show NAME | use NAME`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from k2core.recipe import read_recipe
from k2core.storage import write_text
from k2core.tracking.holding import hold
from k2core.tracking.recipe import keep_aside
from stages.checks import GRAPH, declared_sections, recipe_faults
from stages.closure import rewrite
from stages.written import written

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
def show(name: str) -> None:
    """Print recipes/NAME.yaml with all that it takes over from the recipe it extends."""
    print(_whole(name), end="")


@app.command()
def use(name: str) -> None:
    """Make recipes/NAME.yaml the active recipe, written out in params.yaml; DVC then re-runs what it changes."""
    text = _whole(name)
    with hold(Path("."), {"doing": f"make recipe NAME={name}"}):  # a run's own changes are in params.yaml
        keep_aside(Path("."))
        write_text(Path("params.yaml"), text)
    print(f"params.yaml is now the recipe {name}; `dvc params diff` shows what changed, `make demo` runs it")


def _whole(name: str) -> str:
    """The text of the recipe `name`; the command ends where there is none, or where it has faults."""
    recipe = Path("recipes") / f"{name}.yaml"
    faults = recipe_faults(recipe)
    if not recipe.exists():
        there = ", ".join(sorted(path.stem for path in recipe.parent.glob("*.yaml")))
        faults = [f"no recipe {name}; there are: {there}"]
    if faults:
        print("\n".join(faults), file=sys.stderr)
        raise typer.Exit(1)
    return written(name, read_recipe(recipe), declared_sections())


if __name__ == "__main__":
    app()
