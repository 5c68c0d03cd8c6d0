"""What each part of RL is worth: arms of the stage `rl` from one SFT model, on the same tasks, item by item (K2 §3.2).

Each arm is the recipe of a finished workspace with a few keys of section `rl` changed (experiments/policy_arms.py),
trained by the stage's own command below --work. What is finished is not trained again, and a killed training goes on
from its last checkpoint. The SFT model and each arm's model are scored by the stage `evaluate`. Results go to
experiments/results/policy.json, the tables into docs/rl.md.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from benchmarks.harness import ROOT, commit, machine
from experiments import statistics
from experiments.ablations import BITS, RESAMPLES, carry_out, chosen_arms, interval, stage
from experiments.policy_arms import ARMS, Arm
from experiments.variants import FULL, Recipe
from k2core.recipe import read_recipe
from k2core.storage import dvc_md5, publish

SFT = "sft"
INPUTS = ("models/sft", "models/critic", "data/tokenizer", "data/tokens", "data/tasks", "data/programs",
          "data/trajectories")  # fmt: skip
DIALOGUES = "tool_dialogue"
TASKS, WHOLE, SCHEMA = "tasks/pass_rate", "dialogues/pass_hat_1", "tool_calls/valid_when_due"
FIGURES = {
    "entropy": "entropy", "success": "success in the pool", "agreement": "critic's agreement",
}  # fmt: skip
"""Figure of the stage, at the first and the last tenth of the iterations → what it is."""

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def main(
    arms: list[str] = typer.Argument(None, help=f"of {', '.join(ARMS)}; default: all. `{FULL}` is always measured"),
    seeds: int = typer.Option(1, min=1, help=f"trainings of `{FULL}`; of any other arm there is one"),
    workspace: Path = typer.Option(Path("."), help="a workspace whose chain has run as far as the critic"),
    work: Path = typer.Option(Path("work/policy"), help="finished trainings, and those to go on with"),
    results: Path = typer.Option(ROOT / "experiments/results/policy.json", help="the figures"),
    page: Path = typer.Option(ROOT / "docs/rl.md", help="the page with the tables"),
) -> None:
    """Measure."""
    chosen = chosen_arms(arms, ARMS)
    carry_out(
        "policy", lambda: measure(chosen, seeds, workspace.resolve(), work.resolve()), markdown, results, page, "policy"
    )


def measure(arms: list[str], seeds: int, workspace: Path, work: Path) -> dict[str, Any]:
    """All trainings of all arms, as the content of policy.json."""
    inputs = {name: dvc_md5(workspace / name) for name in INPUTS}
    recipe = read_recipe(workspace / "params.yaml")
    key = hashlib.md5(json.dumps([inputs, recipe], sort_keys=True).encode()).hexdigest()
    folder = work / key[:12]
    before = scored(recipe, workspace / "models/sft", workspace, folder / SFT)
    found = {
        arm: [
            trained(ARMS[arm], recipe, number, workspace, folder / arm) for number in range(seeds if arm == FULL else 1)
        ]
        for arm in arms
    }
    families = {**before["items"][TASKS], DIALOGUES: []}
    best, seed = f"pass@{recipe['evaluate']['samples']}", recipe["compute"]["seed"]
    rates = {family: _rows(before, found, family) for family in families}
    some = {
        family: [row | {"values": [float(value > 0) for value in row["values"]]} for row in rows]
        for family, rows in rates.items()
    }
    return {
        "pass@1": {family: _summary(rows, list(found), seed) for family, rows in rates.items()},
        best: {family: _summary(rows, list(found), seed) for family, rows in some.items()},
        "schema": _summary(_rows(before, found, SCHEMA), list(found), seed),
        "bits": {SFT: [before["bits"]]} | {arm: [run["bits"] for run in runs] for arm, runs in found.items()},
        "training": {arm: [run["training"] for run in runs] for arm, runs in found.items()},
        "on": {arm: [run["on"] for run in runs] for arm, runs in found.items()},
        "iterations": recipe["rl"]["iterations"], "seeds": seeds, "machine": machine(), "commit": commit(),
        "command": f"python -m experiments.policy {' '.join(arms[1:] or arms)} --seeds {seeds}",
    }  # fmt: skip


def trained(arm: Arm, recipe: Recipe, number: int, workspace: Path, folder: Path) -> dict[str, Any]:
    """What training `number` of an arm reports, and the scores of its model; trained if it is not there yet."""
    here, data, critic = folder / f"seed-{number + 1}", workspace / "data", workspace / "models/critic"
    own = recipe | {
        "rl": recipe["rl"] | arm.rl,
        "compute": recipe["compute"] | {"seed": recipe["compute"]["seed"] + number},
    }
    if arm.random_critic:
        critic = with_random_head(critic, folder / "critic")
    options = {name: data / name for name in ("tokenizer", "tokens", "tasks", "programs", "trajectories")}
    stage("rl", own, here, init=workspace / "models/sft", critic=critic, out=here / "rl", plot=here / "rl.csv",
          metrics=here / "rl.json", **options)  # fmt: skip
    on = [float(row["critique/on"]) for row in csv.DictReader((here / "rl.csv").open()) if row.get("critique/on")]
    figures = {"training": json.loads((here / "rl.json").read_text()), "on": fmean(on) if on else 0.0}
    return figures | scored(recipe, here / "rl", workspace, here)


def scored(recipe: Recipe, model: Path, workspace: Path, here: Path) -> dict[str, Any]:
    """`items` and `bits` of a model, by the recipe's own seed, so that all models are asked the same."""
    options = {name: workspace / "data" / name for name in ("tokenizer", "tokens", "tasks", "programs")}
    stage("evaluate", recipe, here, name=SFT, model=model, out=here / "scores", **options)
    card = json.loads((here / "scores/scorecard.json").read_text())
    return {"items": json.loads((here / "scores/items.json").read_text()), "bits": card["scores"][BITS]["value"]}


def with_random_head(critic: Path, out: Path) -> Path:
    """A copy of the critic in `out` whose output matrix is noise of the same size."""
    import torch

    from k2core.model.files import load_model, save_model

    if not out.exists():
        model = load_model(critic)
        head = model.lm_head.weight
        with torch.no_grad():
            head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)) * head.std())
        with publish(out) as made:
            save_model(model, made)
    return out


def _rows(before: dict[str, Any], found: dict[str, list[dict[str, Any]]], family: str) -> list[dict[str, Any]]:
    """Of the SFT model and each training: `arm`, and its `values` of the family's items, in the same order."""

    def values(run: dict[str, Any]) -> list[float]:
        items = run["items"]
        if family in items[TASKS]:
            own: list[float] = items[TASKS][family]
            return own
        groups = items[WHOLE if family == DIALOGUES else family]
        return [value for name in sorted(groups) for value in groups[name]]

    runs = [(SFT, before), *((arm, run) for arm, runs in found.items() for run in runs)]
    return [{"arm": arm, "values": values(run)} for arm, run in runs]


def _summary(rows: list[dict[str, Any]], arms: list[str], seed: int) -> dict[str, dict[str, float]]:
    """Model, or `ARM - sft`, → value and 95% interval, over items and trainings."""
    items = range(len(rows[0]["values"]))
    differences = [(arm, SFT) for arm in arms]
    return statistics.summarise(rows, items, RESAMPLES, seed, {"": "values"}, differences)[""]


def markdown(measured: dict[str, Any]) -> str:
    """The tables of policy.json."""
    families, arms = list(measured["pass@1"]), list(measured["training"])
    head = f"| | {' | '.join(families)} |\n" + "|---" * (len(families) + 1) + "|"
    lines: list[str] = []
    for name in [key for key in measured if key.startswith("pass@")]:
        of = measured[name]
        before = [f"{of[family][SFT]['value']:.3f}" for family in families]
        lines += [f"{name}: before RL, and what each arm adds.", "", head, f"| before | {' | '.join(before)} |"]
        for arm in arms:
            cells = [interval(of[family][f"{arm} - {SFT}"], "+") for family in families]
            lines.append(f"| `{arm}` | {' | '.join(cells)} |")
        lines.append("")
    columns = ["valid calls where one is due", "bits per byte", *(f"{what}, first → last" for what in FIGURES.values())]
    lines += [f"| | {' | '.join([*columns, 'critic on'])} |", "|---" * (len(columns) + 2) + "|"]
    schema, bits = measured["schema"], {arm: f"{fmean(values):.3f}" for arm, values in measured["bits"].items()}
    lines.append(f"| before | {schema[SFT]['value']:.3f} | {bits[SFT]} | | | | |")
    for arm in arms:
        cells = [interval(schema[arm]), bits[arm]]
        for figure in FIGURES:
            ends = [_mean(measured["training"][arm], f"train/{figure}_{end}") for end in ("first", "last")]
            cells.append(" → ".join(ends))
        lines.append(f"| `{arm}` | {' | '.join([*cells, format(fmean(measured['on'][arm]), '.0%')])} |")
    what = [f"| `{arm}` | {ARMS[arm].says} |" for arm in arms]
    lines += ["", "| arm | what it is |", "|---|---|", *what, ""]
    lines += [
        f"Iterations: {measured['iterations']}; trainings of `{FULL}`: {measured['seeds']}, of any other arm: 1; 95% "
        "intervals by a bootstrap over items and trainings. "
        f"Measured on {measured['machine']}, commit {measured['commit']}:",
        f"`{measured['command']}`.",
    ]
    return "\n".join(lines)


def _mean(runs: list[dict[str, float]], figure: str) -> str:
    """Over the trainings that have the figure."""
    values = [run[figure] for run in runs if figure in run]
    return f"{fmean(values):.3f}" if values else "none"


if __name__ == "__main__":
    app()
