"""Which rows of a phase come from which documents: weights and the share of long documents are kept exactly.

Shapes: D documents.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from k2core.data.mixture.selection import Select
from k2core.data.rows.shards import TokenShards
from k2core.storage import StorageError

Name = TypeVar("Name", bound=Hashable)
ALL, LONG, ORDINARY = "all", "long", "ordinary"
EPSILON = 1e-9
"""What rounding may add to a share."""


class Bucket(NamedTuple):
    """The documents of a domain that fill a row together: all of them, or only the long or the ordinary ones."""

    domain: str
    part: str


@dataclass(frozen=True)
class Pool:
    """The training documents of a domain as a phase sees them, in the order of the shard.

    Attributes:
        ends_D: where each ends in the shard.
        lengths_D: tokens of each, its end mark counted.
        rates_D: how often each comes in an epoch, in (0, 1].
        quality_D: its score.
        parts: the documents that each part takes, as masks.
    """

    ends_D: np.ndarray
    lengths_D: np.ndarray
    rates_D: np.ndarray
    quality_D: np.ndarray
    parts: dict[str, np.ndarray]

    def tokens(self, part: str) -> float:
        """Tokens of a part that an epoch holds, as expected from the rates."""
        return float((self.rates_D * self.lengths_D)[self.parts[part]].sum())

    @property
    def long_share(self) -> float:
        """Share of the long documents in the tokens of an epoch."""
        return self.tokens(LONG) / self.tokens(ALL)


def read_pool(shards: TokenShards, domain: str, select: Select) -> Pool:
    """The documents of `domain` that `select` admits; without `long_tokens` every one is ordinary.

    Raises:
        StorageError: the domain is not in the shards, or has no documents.
    """
    ends = shards.document_ends("train", domain)
    if not len(ends):
        raise StorageError(f"{shards.folder}: domain {domain} has no documents to train on")
    lengths = np.diff(ends, prepend=0)
    quality = np.asarray(shards.document_quality("train", domain), np.float64)
    rates = np.asarray(shards.document_rates("train", domain), np.float64)
    # The quantile is one of the values ("lower"), so that it is never above the best document.
    admitted = quality >= np.quantile(quality, select.min_quality_quantile, method="lower")
    long = admitted & (lengths >= select.long_tokens) if select.long_tokens else np.zeros_like(admitted)
    return Pool(ends, lengths, rates, quality, {ALL: admitted, LONG: long, ORDINARY: admitted & ~long})


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


def deal_rows(weights: Mapping[Name, float], rows: int) -> list[Name]:
    """The name that each of `rows` rows belongs to; row i goes to the one that is furthest behind its share.

    At any point a name is at most one row ahead of its share and less than one row per other name behind it, so
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


def deal_buckets(weights: Mapping[Bucket, float], rows: int) -> list[Bucket]:
    """`deal_rows` in two steps, first long or ordinary and then the domain, so the long share is exact to a row."""
    parts: dict[str, dict[Bucket, float]] = {}
    for bucket, weight in weights.items():
        parts.setdefault(bucket.part, {})[bucket] = weight
    dealt = deal_rows({part: sum(inside.values()) for part, inside in parts.items()}, rows)
    queues = {part: iter(deal_rows(inside, dealt.count(part))) for part, inside in parts.items() if part in dealt}
    return [next(queues[part]) for part in dealt]
