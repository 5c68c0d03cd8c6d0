"""The training data of one phase as a pure function of its step.

The documents of a domain form an endless stream: one seeded permutation after another. In pass e a document of rate r
comes iff floor(r·(e+1) + u) > floor(r·e + u), u a hash of its number: at most once, and in the long run r times a
pass. A phase walks on from where the phase before it stopped (`cursor`) and takes what it selects; what it passes over
comes again in the next pass. So no document comes twice before every other had its turn, whatever the phases select.
What a phase takes is packed into rows, and the rows are dealt out by the mixture. Nothing depends on processes or on
what was read before.

A phase is planned a window of rows at a time. The walk over the documents of earlier windows reads their lengths; only
the window that is read is packed, and in memory.

Shapes: D documents of a span.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np

from k2core.data.mixture.pool import LONG, Pool, Span, read_pool
from k2core.data.mixture.selection import EVERYTHING, Select
from k2core.data.mixture.shares import Bucket, BucketDeal, row_weights
from k2core.data.rows.batch import Batch
from k2core.data.rows.packing import Piece, cut, pack_rows, pieces_to_batch, position_buckets
from k2core.data.rows.shards import TokenShards
from k2core.data.rows.spans import hash_fractions, shuffled, spans

WINDOW = 2**15
"""Rows that are packed together."""
Row = tuple[str, list[Piece]]
"""A row's domain, and the pieces of the domain's shard that fill it."""


@dataclass(frozen=True)
class _Taken:
    """The documents that fill a bucket's rows of a window.

    Attributes:
        rows: how many.
        before: the domain's cursor at the window's start.
        after: the cursor after the last of the documents.
        ends, lengths: of each document.
    """

    rows: int
    before: int
    after: int
    ends: np.ndarray
    lengths: np.ndarray


class PhaseSource:
    """Batches of a phase: `batch(step)` for step 0 … steps-1.

    Args:
        weights: share of rows by domain.
        cursor: documents that earlier phases took or passed over, by domain.
        select: which documents the phase takes.

    Raises:
        StorageError: a domain of the mixture is not in the shards, or has too few long documents.
        ValueError: the weights cannot be a mixture.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        weights: Mapping[str, float],
        steps: int,
        batch_rows: int,
        context: int,
        seed: int,
        cursor: Mapping[str, int],
        select: Select = EVERYTHING,
    ) -> None:
        self.shards, self.context, self.batch_rows, self.seed = shards, context, batch_rows, seed
        self._rows = steps * batch_rows
        self._pools = {
            domain: read_pool(shards, domain, select) for domain, weight in sorted(weights.items()) if weight
        }
        # What each window starts from: the cursor, and the deal of rows.
        start = {name: cursor.get(name, 0) for name in sorted({*cursor, *weights})}
        self._starts = [(start, BucketDeal(row_weights(self._pools, weights, select)))]
        self._sums: dict[int, _Sums] = {}
        self._window = lru_cache(maxsize=1)(self._packed)

    @property
    def cursor(self) -> dict[str, int]:
        """Documents taken or passed over by domain, this phase included."""
        return self._start(-(-self._rows // WINDOW))[0]

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """Batch number `step` of the phase, or of its rows only `rows`."""
        chosen = self.pieces(step)
        if rows is not None:
            chosen = chosen[rows.start : rows.stop]
        packed = ((self.shards.tokens("train", domain), pieces) for domain, pieces in chosen)
        return pieces_to_batch(packed, self.context, self.shards.eos_id)

    def samples(self, step: int) -> list[str]:
        """`domain/number` of each training document in batch number `step`, as numbered in the shards."""
        starts: dict[str, list[int]] = {}
        for domain, pieces in self.pieces(step):
            starts.setdefault(domain, []).extend(piece.start + 1 for piece in pieces)
        names = []
        for domain in sorted(starts):
            ends = self.shards.document_ends("train", domain)
            names += [f"{domain}/{number}" for number in np.unique(np.searchsorted(ends, starts[domain], side="right"))]
        return names

    def pieces(self, step: int) -> list[Row]:
        """The rows of batch number `step`.

        Raises:
            IndexError: the phase has fewer steps.
        """
        row, end = step * self.batch_rows, (step + 1) * self.batch_rows
        if end > self._rows:
            raise IndexError(f"step {step} is beyond the {self._rows // self.batch_rows} steps of the phase")
        chosen: list[Row] = []
        while row < end:
            number, within = divmod(row, WINDOW)
            chosen += self._window(number)[within : within + end - row]
            row = min(end, (number + 1) * WINDOW)
        return chosen

    def figures(self) -> dict[str, float]:
        """Token accounting: by domain the targets and the passes so far; shares of targets in long documents' rows, of
        padding, of cropping, of targets by position (a model learns a long context only from the late ones)."""
        sums = _Sums()
        for number in range(-(-self._rows // WINDOW)):
            if number not in self._sums:  # read before a kill
                self._window(number)
            sums.add(self._sums[number])
        used, cursor = sum(sums.used.values()), self.cursor
        figures: dict[str, float] = {}
        for domain in sorted({bucket.domain for bucket in sums.used}):
            targets = sum(count for bucket, count in sums.used.items() if bucket.domain == domain)
            figures[f"mixture/tokens/{domain}"] = float(targets)
            documents = self.shards.manifest["train"][domain]["documents"]
            figures[f"mixture/epochs/{domain}"] = cursor[domain] / documents
        long = sum(count for bucket, count in sums.used.items() if bucket.part == LONG)
        if long:
            figures["mixture/long_share"] = long / used
        figures["packing/padding_share"] = 1 - used / (self._rows * self.context)
        figures["packing/cropped_share"] = 1 - used / sums.taken
        for low, high in position_buckets(self.context):
            figures[f"packing/position_share/{low}-{high}"] = float(sums.positions[low, high] / used)
        return figures

    def _start(self, number: int) -> tuple[dict[str, int], BucketDeal]:
        """What window `number` starts from, after a walk over the windows before it."""
        while len(self._starts) <= number:
            self._walk(len(self._starts) - 1)
        return self._starts[number]

    def _walk(self, number: int) -> tuple[list[Bucket], dict[Bucket, _Taken]]:
        """The buckets of the rows of window `number`, and the documents of each bucket."""
        start, deal = self._start(number)
        deal = deepcopy(deal)
        dealt = deal.next(min(WINDOW, self._rows - number * WINDOW))
        taken = {
            bucket: self._take(bucket, rows, start[bucket.domain]) for bucket, rows in sorted(Counter(dealt).items())
        }
        if len(self._starts) == number + 1:
            after = dict(start)
            for bucket, documents in taken.items():
                after[bucket.domain] = max(after[bucket.domain], documents.after)
            self._starts.append((after, deal))
        return dealt, taken

    def _take(self, bucket: Bucket, rows: int, before: int) -> _Taken:
        """The next documents of a bucket: as many pairs as cannot fit into fewer rows than asked for."""
        pool, missing, after = self._pools[bucket.domain], rows * self.context, before
        ends, lengths = [], []
        for position_D, number_D, span in self._stream(bucket.domain, pool, before):
            of_part = span.parts[bucket.part][number_D]
            position_D, number_D = position_D[of_part], number_D[of_part]
            left_D = missing - span.lengths_D[number_D].cumsum()
            count = min(len(left_D), int(np.count_nonzero(left_D > 0)) + 1)
            if not count:
                continue
            ends.append(span.ends_D[number_D[:count]])
            lengths.append(span.lengths_D[number_D[:count]])
            missing, after = int(left_D[count - 1]), int(position_D[count - 1]) + 1
            if missing <= 0:
                break
        return _Taken(rows, before, after, np.concatenate(ends), np.concatenate(lengths))

    def _stream(self, domain: str, pool: Pool, start: int) -> Iterator[tuple[np.ndarray, np.ndarray, Span]]:
        """The documents that come from position `start` of the stream on, for ever, a span at a time: the position of
        each in the stream, its number in the span, and the span."""
        epoch, skipped = divmod(start, pool.documents)
        while True:
            low = 0
            for number in range(spans(pool.documents)):
                span = pool.span(number)
                high = low + len(span.rates_D)
                if skipped < high:
                    order_D = shuffled(f"{self.seed}/epoch/{domain}/{epoch}", pool.documents, number) - low
                    phase_D = hash_fractions(f"{self.seed}/rate/{domain}", high - low, low)
                    there_D = np.floor(span.rates_D * (epoch + 1) + phase_D) > np.floor(span.rates_D * epoch + phase_D)
                    places_D = np.flatnonzero(there_D[order_D])
                    places_D = places_D[places_D >= skipped - low]
                    yield epoch * pool.documents + low + places_D, order_D[places_D], span
                low = high
            epoch, skipped = epoch + 1, 0

    def _packed(self, number: int) -> list[Row]:
        """The rows of window `number`; notes its sums."""
        dealt, taken = self._walk(number)
        rows: dict[Bucket, Iterator[list[Piece]]] = {}
        sums = self._sums[number] = _Sums()
        for bucket, documents in taken.items():
            part = f"/{LONG}" if bucket.part == LONG else ""
            random = Random(f"{self.seed}/rows/{bucket.domain}/{documents.before}{part}")
            pieces = [
                piece
                for end, length in zip(documents.ends.tolist(), documents.lengths.tolist(), strict=True)
                for piece in cut(end - length, end, self.context)
            ]
            packed, sums.used[bucket] = _pack(pieces, documents.rows, self.context, random)
            sums.taken += int(documents.lengths.sum())
            rows[bucket] = iter(packed)
        plan = [(bucket.domain, next(rows[bucket])) for bucket in dealt]
        lengths = np.array([piece.length for _, pieces in plan for piece in pieces])
        for low, high in position_buckets(self.context):
            sums.positions[low, high] = int((lengths - low).clip(0, high - low).sum())
        return plan


class _Sums:
    """What a window, or a phase, holds: pairs that its rows use by bucket, pairs taken, pairs by range of positions."""

    def __init__(self) -> None:
        self.used: Counter[Bucket] = Counter()
        self.taken = 0
        self.positions: Counter[tuple[int, int]] = Counter()

    def add(self, other: _Sums) -> None:
        self.used.update(other.used)
        self.taken += other.taken
        self.positions.update(other.positions)


def _pack(pieces: list[Piece], count: int, context: int, random: Random) -> tuple[list[list[Piece]], int]:
    """The fullest `count` rows of the pieces in random order, and their pairs."""
    random.shuffle(pieces)
    lengths = [piece.length for piece in pieces]
    rows = pack_rows(lengths, context)
    fill = [sum(lengths[index] for index in row) for row in rows]
    fullest = sorted(range(len(rows)), key=lambda row: -fill[row])[:count]
    random.shuffle(fullest)
    return [[pieces[index] for index in rows[row]] for row in fullest], sum(fill[row] for row in fullest)
