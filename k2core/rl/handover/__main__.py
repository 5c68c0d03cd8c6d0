"""The command: `python -m k2core.rl.handover --out FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from k2core.gym.settings import GymConfig
from k2core.machine import Compute
from k2core.recipe import RecipeError, validate
from k2core.recipe.overlay import read_recipe
from k2core.recipe.section import section_of
from k2core.rl.config import RLConfig
from k2core.sandbox.config import SandboxConfig
from k2core.storage import StorageError
from k2core.storage.foreign import printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    out: Path = typer.Option(help="folder that is written"),
    recipe: Path = typer.Option(Path("params.yaml"), help="recipe: its rl.pool says which prompts"),
    model: Path = typer.Option(Path("models/export"), help="the exported model"),
    tasks: Path = typer.Option(Path("data/tasks"), help="the tool tasks of the run"),
    programs: Path = typer.Option(Path("data/programs"), help="its programming problems and repairs"),
    heldout: int = typer.Option(64, min=1, help="held-out prompts of each environment"),
) -> None:
    """Write the prompts of RL as Parquet for verl or slime, with what their rewards need and a page of options."""
    from k2core.rl.handover.prompts import write_handover

    try:
        content = read_recipe(recipe)
        own = content.get("rl")
        known = {key: own[key] for key in RLConfig.model_fields if key in own} if isinstance(own, dict) else own
        config = validate(RLConfig, known, f"{recipe}: rl")  # the other keys are those of the stage
        counts = write_handover(
            out, config, model=model, tasks=tasks, programs=programs, heldout=heldout,
            gym=section_of(GymConfig, content, recipe, "gym"),
            sandbox=section_of(SandboxConfig, content, recipe, "sandbox"),
            seed=section_of(Compute, content, recipe, "compute").seed,
        )  # fmt: skip
    except (RecipeError, StorageError) as error:
        print(printable(f"handover: {error}"), file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{out}: {counts}; README.md says what to tell verl and slime")


if __name__ == "__main__":
    app()
