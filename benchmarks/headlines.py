"""The README's few rows: the chain's figures and the comparisons that say most, from the committed files of figures.

`python -m benchmarks` and `python -m benchmarks.chain` write them after each measurement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import chain, harness, pages

BLOCK = "headlines"
SPEED = ("forward + backward, 2M", "decoding at batch 64, 2M")
"""Rows of `benchmarks/results.json` that the README keeps."""


def write(root: Path = harness.ROOT) -> None:
    """Rewrite the README's block from the figures below `root`."""
    figures, rows = (json.loads((root / name).read_text()) for name in (chain.FIGURES, "benchmarks/results.json"))
    pages.rewrite(root / pages.README, BLOCK, block(figures, rows))


def block(figures: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The block as Markdown.

    Args:
        figures: of `benchmarks/chain.json`.
        rows: of `benchmarks/results.json`.
    """
    timings = chain.timings(figures)
    bits = chain.bits(figures["metrics"])
    passed = [f"{figures['scores'][name]['tasks/pass_rate']['value']:.3f}" for name in figures["scores"]]
    lines = [
        "| | measured | goal | |", "|---|---|---|---|",
        *(chain.timing_row(timing) for timing in timings if timing.headline),
        f"| held-out bits per byte, untrained and after pre-training | {bits[0]:.3f}, {bits[-1]:.3f} | | |",
        f"| held-out tasks passed by the models {', '.join(figures['scores'])} | {', '.join(passed)} | | |",
    ]  # fmt: skip
    for row in (row for name in SPEED for row in rows if row["name"] == name):
        lines.append(
            f"| {row['name']}: times as fast as transformers | {row['ratio']:.2f} | {row['goal']:g} | "
            f"{pages.VERDICTS[row['met']]} |"
        )
    goals = [*(timing.met for timing in timings), *(row["met"] for row in rows if row["met"] is not None)]
    return "\n".join([
        *lines, "",
        f"All {len(goals)} goals and what missed them ({goals.count(False)}): "
        f"[{pages.MEASUREMENTS}]({pages.MEASUREMENTS}). The chain ran on {figures['machine']}, commit "
        f"{figures['commit']}.",
    ])  # fmt: skip
