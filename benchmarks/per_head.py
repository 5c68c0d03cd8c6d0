"""What Muon by heads changes: short trainings with and without it, with and without QK-Clip, on a workspace's tokens.

Each is the recipe's model, from the same weights, on the same rows of the first phase's mixture, at raised learning
rates, so that attention's logits grow within a few hundred steps. Results go to benchmarks/per_head.json, the table
into docs/model.md. Speeds are not compared, so the machine may be busy.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import typer

from benchmarks.harness import ROOT, commit, machine
from benchmarks.pages import rewrite
from k2core.machine import Compute
from k2core.model.config import ModelConfig
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.recipe import load_section, read_recipe
from k2core.stage import Job
from k2core.storage import write_json
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.phases import Phase
from k2core.training.spikes import SpikeConfig

NO_COPIES = CheckpointConfig(keep=1, permanent_every=0, mirror="", resume_from="", accept=[])
OFF = 1e9
"""A τ that no logit reaches: the logits are observed all the same."""
CELLS = [(per_head, clipped) for per_head in (False, True) for clipped in (False, True)]

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def main(
    workspace: Path = typer.Option(Path("."), help="where params.yaml and data/tokens are"),
    steps: int = typer.Option(240, min=20, help="of each training"),
    batch_tokens: int = typer.Option(512, help="tokens of a step"),
    rate: float = typer.Option(2.0, help="times the recipe's learning rates"),
    threshold: float = typer.Option(10.0, help="τ where QK-Clip is on"),
    seeds: int = typer.Option(1, min=1, help="trainings of each kind, of other weights and rows"),
    page: Path = typer.Option(ROOT / "docs/model.md", help="the page with the table"),
    results: Path = typer.Option(ROOT / "benchmarks/per_head.json", help="the figures"),
) -> None:
    """Measure."""
    recipe = workspace / "params.yaml"
    name, phase = next(iter(read_recipe(recipe)["pretrain"].items()))
    sizes: dict[str, Any] = {"log_every": 10, "checkpoint_every": steps, "heldout_every": steps}
    phase |= sizes | {"tokens": steps * batch_tokens, "batch_tokens": batch_tokens}
    phase["schedule"] |= {"warmup_steps": steps // 20}
    arm = Trainings(recipe, Phase.model_validate(phase), workspace / "data" / "tokens", rate)
    rows = [
        {
            "per_head": per_head,
            "qk_clip": clipped,
            "seed": seed,
            **arm.run(per_head, threshold if clipped else OFF, seed),
        }
        for seed in range(1, seeds + 1)
        for per_head, clipped in CELLS
    ]
    found = {
        "rows": rows, "steps": steps, "batch_tokens": batch_tokens, "rate": rate, "threshold": threshold,
        "phase": name, "heads": arm.model.num_hidden_layers * arm.model.num_attention_heads, "machine": machine(),
        "commit": commit(),
    }  # fmt: skip
    write_json(results, found)
    rewrite(page, "per_head", markdown(found))


class Trainings:
    """What all trainings share."""

    def __init__(self, recipe: Path, phase: Phase, tokens: Path, rate: float) -> None:
        self.phase, self.tokens = phase, tokens
        self.model, self.compute, self.spikes, optimizer = (
            load_section(kind, recipe, section)
            for kind, section in (
                (ModelConfig, "model"), (Compute, "compute"), (SpikeConfig, "spikes"), (MuonClipConfig, "optimizer"),
            )
        )  # fmt: skip
        self.optimizer = optimizer.with_rates(rate * optimizer.muon_lr, rate * optimizer.adamw_lr)

    def run(self, per_head: bool, threshold: float, seed: int) -> dict[str, Any]:
        """One training's figures; `logits`: each logged interval's largest."""
        import torch

        from k2core.model.transformer import Transformer
        from k2core.training.learner import Learner, TrainerState
        from k2core.training.phase import run_phase
        from k2core.training.setting import Setting

        self.compute.apply()
        torch.manual_seed(seed)
        network = Transformer(self.model)
        config = self.optimizer.model_copy(update={"per_head": per_head, "qk_clip_threshold": threshold})
        with TemporaryDirectory() as name:
            folder = Path(name)
            for part in ("work", "out"):
                (folder / part).mkdir()
            job = Job(f"per_head {per_head}, τ {threshold:g}, seed {seed}", folder / "work", None)
            _, figures = run_phase(
                self.phase, Learner(network, config.build(network), TrainerState.fresh()),
                Setting(job, self.spikes, NO_COPIES), tokens=self.tokens, seed=seed, plot=folder / "plot.csv",
                out=folder / "out",
            )  # fmt: skip
            plot = list(csv.DictReader(io.StringIO((folder / "plot.csv").read_text())))
            heads = list(csv.DictReader(io.StringIO((folder / "out" / "attention.csv").read_text())))
        last = [float(row["max_logit"]) for row in heads if row["step"] == heads[-1]["step"]]
        return {
            "bits": figures["heldout/bits_per_byte"],
            "loss": fmean(float(row["train/loss"]) for row in plot[-5:]),
            "logits": [float(row["qk_clip/max_logit"]) for row in plot],
            "spread": [min(last), sorted(last)[len(last) // 2], max(last)],
            "heads_clipped": fmean(float(row["qk_clip/heads_clipped"]) for row in plot),
            "gamma": min(float(row["qk_clip/min_gamma"]) for row in plot),
            "skipped": figures["spike/skipped"],
        }


def markdown(found: dict[str, Any]) -> str:
    """The table of per_head.json, means over the seeds."""
    heads = found["heads"]
    lines = [
        f"| Muon | QK-Clip | held-out bits per byte | loss, last 50 steps | largest logit ever | at the end: least, "
        f"middle and largest of {heads} heads | heads clipped per step | smallest γ | steps left out |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(found, per_head, clipped) for per_head, clipped in CELLS),
    ]
    seeds = max(row["seed"] for row in found["rows"])
    what = (
        f"{found['steps']} steps of {found['batch_tokens']:,} tokens, mixture of phase {found['phase']}, "
        f"{found['rate']:g} × the recipe's rates, τ {found['threshold']:g}; "
        + ("one training each" if seeds == 1 else f"means of {seeds} trainings each, in brackets each one's")
    )
    return "\n".join(
        [*lines, "", f"{what}. `python -m benchmarks.per_head`, {found['machine']}, commit {found['commit']}."]
    )


def _line(found: dict[str, Any], per_head: bool, clipped: bool) -> str:
    rows = [row for row in found["rows"] if (row["per_head"], row["qk_clip"]) == (per_head, clipped)]

    def several(digits: int, values: Iterator[float]) -> str:
        each = list(values)
        alone = f"{fmean(each):.{digits}f}"
        return alone if len(each) == 1 else f"{alone} ({', '.join(f'{value:.{digits}f}' for value in each)})"

    spread = " · ".join(f"{fmean(row['spread'][place] for row in rows):.1f}" for place in range(3))
    cells = [
        "by heads" if per_head else "whole matrices", f"τ {found['threshold']:g}" if clipped else "off",
        several(3, (row["bits"] for row in rows)), several(3, (row["loss"] for row in rows)),
        several(1, (max(row["logits"]) for row in rows)), spread, several(2, (row["heads_clipped"] for row in rows)),
        several(3, (row["gamma"] for row in rows)), several(0, (row["skipped"] for row in rows)),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
