"""Spell a word backwards: reasoning-gym's task, letters written apart."""

from __future__ import annotations

from k2core.gym.reasoning import ReasoningGym


def make() -> ReasoningGym:
    """`Backward: s u n` → `n u s`. A word and its reverse share a split."""
    return ReasoningGym(
        name="spell_backward",
        task="spell_backward",
        config=(("min_word_len", 3), ("max_word_len", 5)),
        prompt=lambda entry: "Backward: " + " ".join(entry["metadata"]["word"]),
        key=lambda entry: min(entry["metadata"]["word"], entry["metadata"]["word"][::-1]),
        spaced=True,
    )
