"""The training documents of a domain as a phase sees them: which it admits, and their lengths, rates and quality.

They are read a span at a time. What is known of all of them (sums, a quantile) takes one pass over a few bytes a
document, and memory for one span.

Shapes: D documents of a span.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from k2core.data.mixture.selection import Select
from k2core.data.rows.shards import TokenShards
from k2core.data.rows.spans import SPAN, bounds, spans
from k2core.storage import StorageError

ALL, LONG, ORDINARY = "all", "long", "ordinary"


@dataclass(frozen=True)
class Span:
    """Successive documents in the order of the shard.

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


class Pool:
    """The documents of a domain.

    Args:
        documents: how many there are.
        read: the documents of a span by its number.
    """

    def __init__(self, documents: int, read: Callable[[int], Span]) -> None:
        self.documents = documents
        self.span = lru_cache(maxsize=2)(read)

    def __iter__(self) -> Iterator[Span]:
        """The spans in their order."""
        return (self.span(number) for number in range(spans(self.documents)))

    @cached_property
    def _sums(self) -> dict[str, tuple[int, float]]:
        sums = dict.fromkeys((ALL, LONG, ORDINARY), (0, 0.0))
        for span in self:
            weighed_D = span.rates_D * span.lengths_D
            for part, (documents, tokens) in sums.items():
                mask_D = span.parts[part]
                sums[part] = documents + int(mask_D.sum()), tokens + float(weighed_D[mask_D].sum())
        return sums

    def admitted(self, part: str) -> int:
        """Documents of a part."""
        return self._sums[part][0]

    def tokens(self, part: str) -> float:
        """Tokens of a part that an epoch holds, as expected from the rates."""
        return self._sums[part][1]

    def takes(self, part: str, number: int) -> bool:
        """Whether a part takes the document with this number in the shard."""
        span, within = divmod(number, SPAN)
        return bool(self.span(span).parts[part][within])

    @property
    def long_share(self) -> float:
        """Share of the long documents in the tokens of an epoch."""
        return self.tokens(LONG) / self.tokens(ALL)


def read_pool(shards: TokenShards, domain: str, select: Select) -> Pool:
    """The documents of `domain` that `select` admits; without `long_tokens` every one is ordinary.

    Raises:
        StorageError: the domain is not in the shards, or has no documents.
    """
    ends, quality = shards.document_ends("train", domain), shards.document_quality("train", domain)
    rates = shards.document_rates("train", domain)
    documents = len(ends)
    if not documents:
        raise StorageError(f"{shards.folder}: domain {domain} has no documents to train on")
    quantile = select.min_quality_quantile
    least = lower_quantiles(quality, [quantile])[0] if quantile else -np.inf

    def read(number: int) -> Span:
        low, high = bounds(documents, number)
        ends_D = np.array(ends[low:high])
        lengths_D = np.diff(ends_D, prepend=ends[low - 1] if low else 0)
        quality_D, rates_D = (np.array(values[low:high], np.float64) for values in (quality, rates))
        admitted_D = quality_D >= least
        long_D = admitted_D & (lengths_D >= select.long_tokens) if select.long_tokens else np.zeros_like(admitted_D)
        return Span(
            ends_D, lengths_D, rates_D, quality_D, {ALL: admitted_D, LONG: long_D, ORDINARY: admitted_D & ~long_D}
        )

    return Pool(documents, read)


def lower_quantiles(values: np.ndarray, quantiles: Sequence[float]) -> list[float]:
    """`np.quantile(values, quantiles, method="lower")` of a long array of float32 in constant memory.

    "lower" is one of the values, so that a quantile of quality is never above the best document. It is found by the
    upper half of its bits, then by the lower half.
    """
    upper = _counts(values).cumsum()
    found = []
    for quantile in quantiles:
        rank = int(np.floor((len(values) - 1) * quantile))
        top = int(np.searchsorted(upper, rank, side="right"))
        lower = _counts(values, top).cumsum()
        before = int(upper[top - 1]) if top else 0
        key = top << 16 | int(np.searchsorted(lower, rank - before, side="right"))
        bits = key ^ (0x80000000 if key & 0x80000000 else 0xFFFFFFFF)
        found.append(float(np.array(bits, np.uint32).view(np.float32)))
    return found


def _counts(values: np.ndarray, top: int | None = None) -> np.ndarray:
    """How often each upper half occurs among the values' keys, which are ordered as the values are; with `top`, how
    often each lower half does among the keys of that upper half."""
    counts = np.zeros(2**16, np.int64)
    for number in range(spans(len(values))):
        low, high = bounds(len(values), number)
        bits_D = np.array(values[low:high], np.float32).view(np.uint32)
        keys_D = np.where(bits_D >> 31, ~bits_D, bits_D | 0x80000000).astype(np.int64)
        halves = keys_D >> 16 if top is None else keys_D[keys_D >> 16 == top] & 0xFFFF
        counts += np.bincount(halves, minlength=2**16)
    return counts
