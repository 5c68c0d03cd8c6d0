"""Keeps the graph, the recipe and the stages in step: `python -m stages check | deps | use NAME`."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import typer
import yaml

from k2core.recipe import RecipeError, read_recipe, validate
from k2core.recipe.limits import Limits
from k2core.stage import sections_of
from stages.closure import rewrite, stage_module

GRAPH = Path("dvc.yaml")
app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def check(recipe: Path = typer.Argument(Path("params.yaml"))) -> None:
    """Check every section of a recipe against the stage that reads it; print one line a fault."""
    faults = recipe_faults(recipe)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        raise typer.Exit(1)
    print(f"{recipe}: every section is valid")


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


def recipe_faults(recipe: Path) -> list[str]:
    """One sentence for each key of `recipe` that no stage can use, and for each section nobody reads."""
    try:
        content = read_recipe(recipe)
    except RecipeError as error:
        return [str(error)]
    faults, used = [], set()
    for key, cls in declared_sections().items():
        node: Any = content
        used.add(key.split(".")[0])
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            faults.append(f"{recipe}: {key}: missing section")
            continue
        try:
            validate(cls, node, f"{recipe}: {key}")
        except RecipeError as error:
            faults += str(error).splitlines()
    return faults + [f"{recipe}: {key}: no stage reads this section" for key in content if key not in used]


def declared_sections() -> dict[str, Any]:
    """Dotted section of the recipe → the class that checks it, over all stages of the graph."""
    sections: dict[str, Any] = {"limits": Limits}  # which the flow reads
    for stage in yaml.safe_load(GRAPH.read_text())["stages"].values():
        body = stage.get("do", stage)
        module = importlib.import_module(stage_module(body["cmd"]))
        items = stage.get("foreach", [None])
        for key, cls in sections_of(module.run, module.SECTION).values():
            names = [key.split("{")[0] + item for item in items] if "{" in key else [key]
            sections |= dict.fromkeys(names, cls)
    return sections


if __name__ == "__main__":
    app()
