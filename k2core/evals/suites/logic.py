"""Whether a conclusion follows from two premises: Yes or No (reasoning-gym's `syllogism`). Guessing gets a half."""

from __future__ import annotations

from pathlib import Path

from k2core.evals.final_answer import YES_NO, Explained


def make(data: Path | None) -> Explained:
    """The environment."""
    return Explained(
        "logic", "syllogism", (), lambda entry: f"{entry['question']} Answer with Yes or No alone.",
        lambda entry: entry["question"], value=YES_NO,
    )  # fmt: skip
