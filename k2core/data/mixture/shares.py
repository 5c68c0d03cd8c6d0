"""Which rows of a phase come from which documents: weights and the share of long documents are kept exactly."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from k2core.data.mixture.pool import ALL, LONG, ORDINARY, Pool
from k2core.data.mixture.selection import Select
from k2core.storage import StorageError

Name = TypeVar("Name", bound=Hashable)
EPSILON = 1e-9
"""What rounding may add to a share."""


class Bucket(NamedTuple):
    """The documents of a domain that fill a row together: all of them, or only the long or the ordinary ones."""

    domain: str
    part: str


def row_weights(pools: Mapping[str, Pool], weights: Mapping[str, float], select: Select) -> dict[Bucket, float]:
    """The weight of each bucket; the weights of a domain's buckets sum to its own.

    To reach `long_share`, long documents come f times as often as the mixture would show them, with one f for all
    domains; where that would be more than the domain's whole weight, it is the whole weight. So the mixture stays,
    and a domain with few long documents does not repeat them more often than another.

    Raises:
        StorageError: the domains that have long documents, or those that have none, have too small a weight.
    """
    weights = {domain: weight for domain, weight in weights.items() if weight}
    if not select.long_share:
        return {Bucket(domain, ALL): weight for domain, weight in weights.items()}
    total = sum(weights.values())
    natural = {domain: pools[domain].long_share for domain in weights}
    least = sum(weights[domain] for domain, share in natural.items() if share == 1) / total
    most = sum(weights[domain] for domain, share in natural.items() if share > 0) / total
    if not least - EPSILON <= select.long_share <= most + EPSILON or not most:
        some = ", ".join(domain for domain, share in sorted(natural.items()) if share > 0) or "no domain"
        raise StorageError(
            f"long_share {select.long_share:g} cannot be had: of the mixture, {some} has documents of at least "
            f"{select.long_tokens:,} tokens, so between {least:.0%} and {most:.0%} of its rows can be long; change "
            "long_share, long_tokens or the mixture"
        )

    def long(factor: float) -> dict[str, float]:
        return {
            domain: weight if natural[domain] == 1 else min(weight, factor * weight * natural[domain])
            for domain, weight in weights.items()
        }

    low, high = 0.0, 1 / min(share for share in natural.values() if share > 0)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(long(middle).values()) < select.long_share * total else (low, middle)
    buckets: dict[Bucket, float] = {}
    for domain, weight in long(high).items():
        buckets |= {Bucket(domain, LONG): weight, Bucket(domain, ORDINARY): weights[domain] - weight}
    return {bucket: weight for bucket, weight in buckets.items() if weight > EPSILON * total}


class Deal(Generic[Name]):
    """The names that successive rows belong to; each goes to the one that is furthest behind its share.

    At any point a name is at most one row ahead of its share and less than one row per other name behind it, so
    every stretch of training sees the mixture, not only the whole.

    Raises:
        ValueError: no weight is positive, or one is negative.
    """

    def __init__(self, weights: Mapping[Name, float]) -> None:
        self._names = [name for name, weight in weights.items() if weight != 0]
        shares = np.array([weights[name] for name in self._names], dtype=np.float64)
        if not self._names or (shares < 0).any():
            raise ValueError(f"mixture weights must not be negative, and one must be positive: {dict(weights)}")
        self._shares, self._counts, self._rows = shares / shares.sum(), np.zeros(len(shares)), 0

    def next(self, rows: int) -> list[Name]:
        """The names of the next `rows` rows."""
        chosen = []
        for row in range(self._rows, self._rows + rows):
            index = int(np.argmax(self._shares * (row + 1) - self._counts))
            self._counts[index] += 1
            chosen.append(self._names[index])
        self._rows += rows
        return chosen


class BucketDeal:
    """`Deal` in two steps, first long or ordinary and then the domain, so the long share is exact to a row."""

    def __init__(self, weights: Mapping[Bucket, float]) -> None:
        inside: dict[str, dict[Bucket, float]] = {}
        for bucket, weight in weights.items():
            inside.setdefault(bucket.part, {})[bucket] = weight
        self._parts = Deal({part: sum(own.values()) for part, own in inside.items()})
        self._buckets = {part: Deal(own) for part, own in inside.items() if sum(own.values())}

    def next(self, rows: int) -> list[Bucket]:
        """The buckets of the next `rows` rows."""
        dealt = self._parts.next(rows)
        queues = {part: iter(deal.next(dealt.count(part))) for part, deal in self._buckets.items()}
        return [next(queues[part]) for part in dealt]
