"""Which domain each row of a phase comes from: weights kept exactly, without chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def domain_rows(weights: Mapping[str, float], rows: int) -> list[str]:
    """The domain of each of `rows` rows; row i goes to the domain that is furthest behind its share.

    At any point a domain is at most one row ahead of its share and less than one row per other domain behind it, so
    every stretch of training sees the mixture, not only the whole.

    Raises:
        ValueError: no weight is positive, or one is negative.
    """
    names = [name for name, weight in weights.items() if weight != 0]
    shares = np.array([weights[name] for name in names], dtype=np.float64)
    if not names or (shares < 0).any():
        raise ValueError(f"mixture weights must not be negative, and one must be positive: {dict(weights)}")
    shares /= shares.sum()
    counts, chosen = np.zeros(len(names)), []
    for row in range(rows):
        index = int(np.argmax(shares * (row + 1) - counts))
        counts[index] += 1
        chosen.append(names[index])
    return chosen
