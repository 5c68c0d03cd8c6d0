"""What each part of the agentic data is worth: SFT without it, on the same tasks, item by item (K2 §3.1).

Each arm is the recipe of a finished workspace with one part taken away, trained by the stages' own commands in a folder
under --work. What is finished is not trained again, and a killed training goes on from its last checkpoint. Every arm
starts from the workspace's base, but for `no_copying`, which trains one. Seeds change SFT alone. Results go to
experiments/results/ablations.json, the tables into docs/ablations.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import fmean
from typing import Any

import typer
import yaml

from benchmarks.harness import ROOT, commit, machine
from benchmarks.pages import rewrite
from experiments import statistics
from experiments.variants import ARMS, FULL, Arm, Recipe
from k2core.recipe import RecipeError, read_recipe
from k2core.stage import StageError
from k2core.storage import StorageError, dvc_md5, publish, write_json, write_lines, write_text

MEASURES = {
    "tool_calls/exact": "calls due and exact",
    "tool_calls/called_when_none_due": "called when none was due",
    "dialogues/pass_hat_1": "whole dialogues, at temperature 1",
    "tasks/pass_rate": "games and first replies, at temperature 1",
}
"""Score with a value for each item → what it is."""
BITS = "heldout/bits_per_byte"
RESAMPLES = 10_000
INPUTS = ("params.yaml", "models/base", "data/tokenizer", "data/tokens", "data/tasks", "data/tools",
          "data/trajectories", "data/programs")  # fmt: skip

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def main(
    arms: list[str] = typer.Argument(None, help=f"of {', '.join(ARMS)}; default: all. `{FULL}` is always measured"),
    seeds: int = typer.Option(3, min=1, help="trainings of each arm"),
    workspace: Path = typer.Option(Path("."), help="a workspace whose chain has run as far as evaluate@sft"),
    work: Path = typer.Option(Path("work/ablations"), help="finished trainings, and those to go on with"),
    results: Path = typer.Option(ROOT / "experiments/results/ablations.json", help="the figures"),
    page: Path = typer.Option(ROOT / "docs/ablations.md", help="the page with the tables"),
    block: str = typer.Option("ablations", help="the tables' block of the page; each base has one of its own"),
) -> None:
    """Measure."""
    chosen = chosen_arms(arms, ARMS)
    carry_out(
        "ablations", lambda: measure(chosen, seeds, workspace.resolve(), work.resolve()), markdown, results, page, block
    )


def chosen_arms(arms: list[str] | None, known: Collection[str]) -> list[str]:
    """`FULL` and the arms that are asked for; all of `known` if none is.

    Raises:
        typer.BadParameter: there is no such arm.
    """
    chosen = [FULL, *(arm for arm in arms or known if arm != FULL)]
    if unknown := sorted(set(chosen) - set(known)):
        raise typer.BadParameter(f"no arm {unknown[0]}; there are {', '.join(known)}")
    return chosen


def carry_out(
    name: str,
    measure: Callable[[], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
    results: Path,
    page: Path,
    block: str,
) -> None:
    """Measure, and write figures and the block of the page; what goes wrong ends the command `name` in a sentence."""
    try:
        measured = measure()
    except (RecipeError, StorageError, StageError, FileNotFoundError) as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(1) from None
    results.parent.mkdir(parents=True, exist_ok=True)
    write_json(results, measured)
    rewrite(page, block, markdown(measured))


def measure(arms: list[str], seeds: int, workspace: Path, work: Path) -> dict[str, Any]:
    """All trainings of all arms, as the content of ablations.json."""
    inputs = {name: dvc_md5(workspace / name) for name in INPUTS}
    key = hashlib.md5(json.dumps(inputs).encode()).hexdigest()
    recipe = read_recipe(workspace / "params.yaml")
    found: dict[str, list[dict[str, Any]]] = {}
    for arm in arms:
        for number in range(seeds):
            folder = work / key[:12] / arm
            found.setdefault(arm, []).append(trained(ARMS[arm], recipe, number, workspace, folder))
    asked = [name for name in MEASURES if any(found[FULL][0]["items"][name].values())]
    return {
        "measures": {measure: _summary(found, measure, recipe["compute"]["seed"]) for measure in asked},
        "bits": {arm: [card["scores"][BITS]["value"] for card in cards] for arm, cards in found.items()},
        "seeds": seeds, "machine": machine(), "commit": commit(),
        "command": f"python -m experiments.ablations {' '.join(arms[1:] or arms)} --seeds {seeds}",
    }  # fmt: skip


def trained(arm: Arm, recipe: Recipe, number: int, workspace: Path, folder: Path) -> dict[str, Any]:
    """The scorecard of training `number` of an arm, and its values item by item; trained if it is not there yet."""
    own, data, seed = arm.edit(recipe), workspace / "data", recipe["compute"]["seed"]
    dialogues, base = folder / "trajectories", folder / "base" if arm.pretrains else workspace / "models/base"
    if not dialogues.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with publish(dialogues) as made:
            made.mkdir()
            write_lines(made / "accepted.jsonl", arm.dialogues(workspace, recipe))
    inputs = {"tokenizer": data / "tokenizer", "tokens": data / "tokens"}
    if arm.pretrains:
        init = data / "tokenizer"
        for phase in own["pretrain"]:
            out, plot = folder / phase, folder / f"{phase}.csv"
            stage("pretrain", own, folder, phase=phase, init=init, tokens=data / "tokens", out=out, plot=plot)
            init = out
        stage("extend_context", own, folder, init=init, tokens=data / "tokens", out=base, plot=folder / "base.csv")
    here = folder / f"seed-{number + 1}"
    seeded = own | {"compute": own["compute"] | {"seed": seed + number}}
    stage("sft", seeded, here, init=base, trajectories=dialogues, out=here / "sft", plot=here / "sft.csv", **inputs)
    asked = {"tasks": data / "tasks", "programs": data / "programs"}
    stage("evaluate", recipe, here, name="sft", model=here / "sft", out=here / "scores", **inputs, **asked)
    card: dict[str, Any] = json.loads((here / "scores/scorecard.json").read_text())
    return card | {"items": json.loads((here / "scores/items.json").read_text())}


def stage(name: str, recipe: Recipe, folder: Path, /, **options: Path | str) -> None:
    """Run a stage's command in `folder` with this recipe, unless its output is there.

    Raises:
        StageError: it failed; what it has finished is kept.
    """
    out = Path(options["out"])
    if out.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{out.name}.yaml"
    write_text(file, yaml.safe_dump(recipe, sort_keys=False))
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"stages.{name}", "--recipe", str(file), *words]
    print(f"{folder.parent.name}/{folder.name}: {name} to {out.name}", flush=True)
    if status := subprocess.run(command, cwd=folder, env=environment, check=False).returncode:
        raise StageError(f"{' '.join(command)} in {folder} ended with status {status}; the same command goes on there")


def _summary(found: dict[str, list[dict[str, Any]]], measure: str, seed: int) -> dict[str, dict[str, float]]:
    """Arm, or `ARM - full`, → value and 95% interval, over items and trainings."""
    rows = [
        {"arm": arm, measure: [value for name in sorted(groups) for value in groups[name]]}
        for arm, cards in found.items()
        for groups in (card["items"][measure] for card in cards)
    ]
    items = range(len(rows[0][measure]))
    differences = [(arm, FULL) for arm in found if arm != FULL]
    return statistics.summarise(rows, items, RESAMPLES, seed, {measure: measure}, differences)[measure]


def markdown(measured: dict[str, Any]) -> str:
    """The tables of ablations.json."""
    arms, names = list(measured["bits"]), list(measured["measures"])
    head = "| | " + " | ".join([*(MEASURES[name] for name in names), "bits per byte"]) + " |"
    lines = [head, "|---" * (len(names) + 2) + "|"]
    for arm in arms:
        cells = [interval(measured["measures"][name][arm]) for name in names]
        lines.append("| " + " | ".join([ARMS[arm].says, *cells, f"{fmean(measured['bits'][arm]):.3f}"]) + " |")
    if len(arms) > 1:
        lines += ["", "Less the recipe, item by item:", "", head, lines[1]]
    for arm in arms[1:]:
        cells = [interval(measured["measures"][name][f"{arm} - {FULL}"], "+") for name in names]
        bits = fmean(measured["bits"][arm]) - fmean(measured["bits"][FULL])
        lines.append("| " + " | ".join([ARMS[arm].says, *cells, f"{bits:+.3f}"]) + " |")
    how = f"Trainings per arm: {measured['seeds']}; 95% intervals by a bootstrap over items and trainings. Measured on "
    return "\n".join(
        [*lines, "", f"{how}{measured['machine']}, commit {measured['commit']}:", f"`{measured['command']}`."]
    )


def interval(score: dict[str, float], sign: str = "") -> str:
    """A value with its interval, as a cell of a table."""
    value, low, high = (f"{score[end]:{sign}.3f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    app()
