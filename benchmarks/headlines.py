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
    bits, scores = chain.bits(figures["metrics"]), figures["scores"]
    passed = [f"{scores[name]['tasks/pass_rate']['value']:.3f}" for name in scores]
    base, tuned = (scores[name]["heldout/bits_per_byte"]["value"] for name in ("base", "sft"))
    exact = scores["sft"]["tool_calls/exact"]["value"]
    enforced = scores["sft"]["tool_calls/enforced/exact"]["value"]
    lines = [
        "| | measured | goal | |", "|---|---|---|---|",
        *(chain.timing_row(timing) for timing in timings if timing.headline),
        f"| held-out bits per byte, untrained, after pre-training, after SFT | {bits[0]:.3f}, {base:.3f}, "
        f"{tuned:.3f} ({tuned / base:.2f} × the base's) | 1.08 × | {pages.VERDICTS[tuned <= 1.08 * base]} |",
        f"| tool calls due and exact after SFT, free and with the Enforcer | {exact:.3f}, {enforced:.3f} | 0.75, "
        f"0.90 | {pages.VERDICTS[exact >= 0.75 and enforced >= 0.9]} |",
        f"| held-out tasks passed by the models {', '.join(scores)} | {', '.join(passed)} | | |",
    ]  # fmt: skip
    for row in (row for name in SPEED for row in rows if row["name"] == name):
        lines.append(
            f"| {row['name']}: times as fast as transformers | {row['ratio']:.2f} | {row['goal']:g} | "
            f"{pages.VERDICTS[row['met']]} |"
        )
    goals = [*(timing.met for timing in timings), *(row["met"] for row in rows if row["met"] is not None)]
    return "\n".join([
        *lines, "",
        f"Of {len(goals)} goals for the chain's times and the speed of its parts, {goals.count(False)} are missed: "
        f"[{pages.MEASUREMENTS}]({pages.MEASUREMENTS}). The chain ran on {figures['machine']}, commit "
        f"{figures['commit']}.",
    ])  # fmt: skip
