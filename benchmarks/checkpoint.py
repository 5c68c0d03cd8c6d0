"""`python -m benchmarks.checkpoint`: how long a training waits for a checkpoint of several GB.

The trainer's own checkpoints, of one process and a model whose weights and optimiser state have the size. Nothing else
is trained meanwhile. Writes the block `checkpoint` of docs/measurements.md. Needs an idle machine, three times the
memory of the checkpoint and twice its room on the disk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
import typer

from benchmarks.harness import ROOT, commit, machine
from benchmarks.pages import MEASUREMENTS, VERDICTS, rewrite
from benchmarks.scale import LAPTOP, full
from k2core.figures.tables import table
from k2core.machine import Compute
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.recipe import load_section
from k2core.training.checkpoint import CheckpointConfig, Checkpoints

GOAL = 1.0
LARGE = {
    "vocab_size": 32768, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1024,
    "num_hidden_layers": 3, "n_routed_experts": 46, "num_experts_per_tok": 4,
}  # fmt: skip
"""What differs from the laptop's model: 7 GB of weights and optimiser state."""
SAVED = 3

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    folder: Path = typer.Option(None, help="where the checkpoints are written; by default the system's temporary one"),
    smoke: bool = typer.Option(False, help="a tiny model: the figures mean nothing, nothing is written"),
) -> None:
    """Measure, and write the table."""
    load_section(Compute, LAPTOP, "compute").apply()
    config = load_section(ModelConfig, LAPTOP, "model").model_copy(update={} if smoke else LARGE)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        content = page(*measure(config, Path(scratch)))
    print(content)
    if not smoke:
        rewrite(ROOT / MEASUREMENTS, "checkpoint", content)


def measure(config: ModelConfig, folder: Path) -> tuple[float, list[tuple[float, float]]]:
    """Bytes of a checkpoint; of each of some, seconds that the training waits and seconds until it is on the disk."""
    with torch.device("meta"):
        model = Transformer(config)
    model.allocate(torch.device("cpu"))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    optimizer = full().optimizer.build(model)
    settings = load_section(CheckpointConfig, LAPTOP, "checkpoint").model_copy(update={"keep": 1, "permanent_every": 0})
    found = []
    with Checkpoints(folder, settings, {}, print, "benchmark") as checkpoints:
        checkpoints.restore(model, optimizer)
        for step in range(1, SAVED + 1):
            begun = time.perf_counter()
            checkpoints.save(step, model, optimizer, {"step": step})
            waited = time.perf_counter() - begun
            checkpoints.finish()
            found.append((waited, time.perf_counter() - begun))
    size = sum(path.stat().st_size for path in folder.glob("step-*/*"))
    return size, found


def page(size: float, found: list[tuple[float, float]]) -> str:
    """The table of docs/measurements.md."""
    rows = [
        [f"{number}", f"{size / 1e9:.2f}", f"{waited:.2f}", VERDICTS[waited <= GOAL], f"{written:.1f}"]
        for number, (waited, written) in enumerate(found, start=1)
    ]
    heads = ["checkpoint", "GB", "seconds that the step waits", f"goal {GOAL:g} s", "seconds until it is on the disk"]
    return f"{table(heads, rows)}\n\nMeasured on {machine()}, commit {commit()}."


if __name__ == "__main__":
    app()
