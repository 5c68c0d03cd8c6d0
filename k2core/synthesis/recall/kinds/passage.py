"""A passage of the text, repeated with or without other text in between."""

from __future__ import annotations

from random import Random

from k2core.synthesis.values import Values

WORDS = (3, 40)
"""Fewest and most words of a passage."""


def make(random: Random, values: Values, text: str, characters: int) -> str:
    """Different passages one after another, each at least twice."""
    words, written = text.split(), ""
    while len(written) < characters:
        passage = _span(random, words)
        between = random.random() < 0.5
        for _ in range(random.randint(2, 5)):
            written += passage + random.choice((" ", "\n"))
            if between:
                written += _span(random, words) + "\n"
    return written[:characters].rstrip()


def _span(random: Random, words: list[str]) -> str:
    length = min(len(words), random.randint(*WORDS))
    start = random.randrange(len(words) - length + 1)
    return " ".join(words[start : start + length])
