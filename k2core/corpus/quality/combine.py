"""The four parts as one number, and how far they agree.

The parts have scales of their own (fastText's probabilities crowd at 0 and 1, cosines do not), so each enters as its
rank within the domain: `quality` orders the documents of a domain and says nothing across domains.

Shapes: N documents of a domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from pydantic import Field

from k2core.recipe import Section

if TYPE_CHECKING:
    import numpy as np

PARTS = ("rules", "classifier", "embedding", "llm")
Scores = Mapping[str, "np.ndarray"]
"""Part → a value of each document, NaN where it has none."""


class Weights(Section):
    """The weight of each part in `quality`; where a document lacks a part, the others decide."""

    rules: float = Field(gt=0, description="weight of the rules' score, which every document has")
    classifier: float = Field(ge=0, description="weight of the fastText classifier")
    embedding: float = Field(ge=0, description="weight of the similarity to good documents")
    llm: float = Field(ge=0, description="weight of the LLM's grade")


def ranks(values_N: np.ndarray) -> np.ndarray:
    """Each value's place among the values in (0, 1), equal values sharing theirs; NaN stays NaN."""
    import numpy as np
    from scipy.stats import rankdata

    places_N = np.full(len(values_N), np.nan)
    known_N = ~np.isnan(values_N)
    if known_N.any():
        places_N[known_N] = (rankdata(values_N[known_N]) - 0.5) / np.count_nonzero(known_N)
    return places_N


def combine(places: Scores, weights: Weights) -> np.ndarray:
    """`quality` in (0, 1) of the documents of one domain: the weighted mean of their ranks."""
    import numpy as np

    size = len(places[PARTS[0]])
    sums_N, shares_N = np.zeros(size), np.zeros(size)
    for part in PARTS:
        known_N = ~np.isnan(places[part])
        sums_N[known_N] += getattr(weights, part) * places[part][known_N]
        shares_N[known_N] += getattr(weights, part)
    return np.fromiter((round(value, 4) for value in (sums_N / shares_N).tolist()), np.float64, size)


def auc(good: Sequence[float] | np.ndarray, poor: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Chance that a good one scores above a poor one (ties count half), with its 95% interval.

    The interval is Hanley and McNeil's (Radiology 1982); where one of the kinds is missing, it is [0, 1].
    """
    import numpy as np
    from scipy.stats import rankdata

    m, n = len(good), len(poor)
    if not m or not n:
        return 0.5, 0.0, 1.0
    area = float((rankdata(np.concatenate([good, poor]))[:m].sum() - m * (m + 1) / 2) / (m * n))
    above, twice = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (m - 1) * (above - area**2) + (n - 1) * (twice - area**2)) / (m * n)
    half = 1.96 * math.sqrt(max(0.0, variance))
    return area, max(0.0, area - half), min(1.0, area + half)


def agreement(places: Scores) -> dict[str, float]:
    """For each two parts, over the documents that have both: the rank correlation (Spearman) within the domains and
    the share of documents that both put into the same half of their domain.

    Args:
        places: ranks within the domain, the domains one after the other.
    """
    import numpy as np

    figures = {}
    for first, second in combinations(PARTS, 2):
        both_N = ~np.isnan(places[first]) & ~np.isnan(places[second])
        if not both_N.any():
            continue
        one, two = (np.ascontiguousarray(places[part][both_N]) - 0.5 for part in (first, second))
        spread = math.sqrt(float((one * one).sum() * (two * two).sum()))
        figures[f"correlation/{first}-{second}"] = float((one * two).sum()) / spread if spread else 0.0
        figures[f"agreement/{first}-{second}"] = float(np.mean((one > 0) == (two > 0)))
    return figures
