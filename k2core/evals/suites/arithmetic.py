"""Sums and differences of two to four numbers of up to three digits (reasoning-gym's `chain_sum`)."""

from __future__ import annotations

from pathlib import Path

from k2core.evals.final_answer import NUMBER, Explained

CONFIG = (("min_terms", 2), ("max_terms", 4), ("min_digits", 1), ("max_digits", 3))


def make(data: Path | None) -> Explained:
    """The environment."""
    return Explained(
        "arithmetic", "chain_sum", CONFIG, lambda entry: f"{entry['question']} Answer with the number alone.",
        lambda entry: entry["question"], value=NUMBER,
    )  # fmt: skip
