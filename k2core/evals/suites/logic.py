"""Whether a conclusion follows from two premises: Yes or No (reasoning-gym's `syllogism`). Guessing gets a half."""

from __future__ import annotations

from pathlib import Path

from k2core.gym.reasoning import ReasoningGym


def make(data: Path | None) -> ReasoningGym:
    """The environment."""
    return ReasoningGym(
        "logic", "syllogism", (), lambda entry: f"{entry['question']} Answer with Yes or No alone.",
        lambda entry: entry["question"],
    )  # fmt: skip
