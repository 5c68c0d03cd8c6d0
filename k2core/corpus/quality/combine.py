"""The four parts as one number, and how far they agree.

The parts have scales of their own (fastText's probabilities crowd at 0 and 1, cosines do not), so each enters as its
rank within the domain: `quality` orders the documents of a domain and says nothing across domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from pydantic import Field

from k2core.recipe import Section

PARTS = ("rules", "classifier", "embedding", "llm")
Scores = Mapping[str, Sequence[float | None]]


class Weights(Section):
    """The weight of each part in `quality`; where a document lacks a part, the others decide."""

    rules: float = Field(gt=0, description="weight of the rules' score, which every document has")
    classifier: float = Field(ge=0, description="weight of the fastText classifier")
    embedding: float = Field(ge=0, description="weight of the similarity to good documents")
    llm: float = Field(ge=0, description="weight of the LLM's grade")


def ranks(values: Sequence[float | None]) -> list[float | None]:
    """Each value's place among the values in (0, 1), equal values sharing theirs; None stays None."""
    from scipy.stats import rankdata

    known = [value for value in values if value is not None]
    places = iter((rankdata(known) - 0.5) / len(known)) if known else iter(())
    return [None if value is None else float(next(places)) for value in values]


def combine(places: Scores, weights: Weights) -> list[float]:
    """`quality` in (0, 1) of the documents of one domain: the weighted mean of their ranks."""
    rows = zip(*(places[part] for part in PARTS), strict=True)
    shares = [getattr(weights, part) for part in PARTS]
    return [
        round(
            sum(share * place for share, place in zip(shares, row, strict=True) if place is not None)
            / sum(share for share, place in zip(shares, row, strict=True) if place is not None),
            4,
        )
        for row in rows
    ]


def auc(good: Sequence[float], poor: Sequence[float]) -> tuple[float, float, float]:
    """Chance that a good one scores above a poor one (ties count half), with its 95% interval.

    The interval is Hanley and McNeil's (Radiology 1982); where one of the kinds is missing, it is [0, 1].
    """
    from scipy.stats import rankdata

    m, n = len(good), len(poor)
    if not m or not n:
        return 0.5, 0.0, 1.0
    area = float((rankdata([*good, *poor])[:m].sum() - m * (m + 1) / 2) / (m * n))
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
        both = [(a, b) for a, b in zip(places[first], places[second], strict=True) if a is not None and b is not None]
        if not both:
            continue
        one, two = np.array(both).T - 0.5
        spread = math.sqrt(float((one * one).sum() * (two * two).sum()))
        figures[f"correlation/{first}-{second}"] = float((one * two).sum()) / spread if spread else 0.0
        figures[f"agreement/{first}-{second}"] = float(np.mean((one > 0) == (two > 0)))
    return figures
