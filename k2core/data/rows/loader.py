"""The training data of one phase as a pure function of its step.

The documents of a domain form an endless stream: one seeded permutation after another. In pass e a document of rate r
comes iff floor(r·(e+1) + u) > floor(r·e + u), u a hash of its number: at most once, and in the long run r times a
pass. A phase walks on from where the phase before it stopped (`cursor`) and takes what it selects; what it passes over
comes again in the next pass. So no document comes twice before every other had its turn, whatever the phases select.
What a phase takes is packed into rows, and the rows are dealt out by the mixture. Nothing depends on processes or on
what was read before. Thin: a phase's rows are planned in memory, which suits one node.

Shapes: D documents.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random

import numpy as np

from k2core.data.mixture.selection import EVERYTHING, Select
from k2core.data.mixture.shares import LONG, Bucket, Pool, deal_buckets, read_pool, row_weights
from k2core.data.rows.batch import Batch
from k2core.data.rows.packing import Piece, cut, pack_rows, pieces_to_batch, position_buckets
from k2core.data.rows.shards import TokenShards


class PhaseSource:
    """Batches of a phase: `batch(step)` for step 0 … steps-1.

    Args:
        weights: share of rows by domain.
        cursor: documents that earlier phases took or passed over, by domain.
        select: which documents the phase takes.

    Raises:
        StorageError: a domain of the mixture is not in the shards, or has too few long documents.
        ValueError: the weights cannot be a mixture.

    Attributes:
        cursor: documents taken or passed over by domain, this phase included.
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
        self.cursor: dict[str, int] = {name: cursor.get(name, 0) for name in sorted({*cursor, *weights})}
        self._pairs_used: Counter[Bucket] = Counter()
        self._pairs_taken: Counter[Bucket] = Counter()
        pools = {domain: read_pool(shards, domain, select) for domain, weight in sorted(weights.items()) if weight}
        buckets = deal_buckets(row_weights(pools, weights, select), steps * batch_rows)
        rows = {
            bucket: iter(packed)
            for domain, pool in pools.items()
            for bucket, packed in self._rows(
                domain, pool, {bucket: n for bucket, n in sorted(Counter(buckets).items()) if bucket.domain == domain}
            ).items()
        }
        self._plan = [(bucket.domain, next(rows[bucket])) for bucket in buckets]

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
            ends = self.shards.document_ends("train", domain)  # a scan of the whole shard
            names += [f"{domain}/{number}" for number in np.unique(np.searchsorted(ends, starts[domain], side="right"))]
        return names

    def pieces(self, step: int) -> list[tuple[str, list[Piece]]]:
        """The rows of batch number `step`: of each its domain, and the pieces of the domain's shard that fill it.

        Raises:
            IndexError: the phase has fewer steps.
        """
        chosen = self._plan[step * self.batch_rows : (step + 1) * self.batch_rows]
        if len(chosen) < self.batch_rows:
            raise IndexError(f"step {step} is beyond the {len(self._plan) // self.batch_rows} steps of the phase")
        return chosen

    def figures(self) -> dict[str, float]:
        """Token accounting: by domain the targets and the passes so far; shares of targets in long documents' rows, of
        padding, of cropping, of targets by position (a model learns a long context only from the late ones)."""
        used, taken = sum(self._pairs_used.values()), sum(self._pairs_taken.values())
        figures: dict[str, float] = {}
        for domain in sorted({bucket.domain for bucket in self._pairs_used}):
            targets = sum(count for bucket, count in self._pairs_used.items() if bucket.domain == domain)
            figures[f"mixture/tokens/{domain}"] = float(targets)
            documents = self.shards.manifest["train"][domain]["documents"]
            figures[f"mixture/epochs/{domain}"] = self.cursor[domain] / documents
        long = sum(count for bucket, count in self._pairs_used.items() if bucket.part == LONG)
        if long:
            figures["mixture/long_share"] = long / used
        figures["packing/padding_share"] = 1 - used / (len(self._plan) * self.context)
        figures["packing/cropped_share"] = 1 - used / taken
        lengths = np.array([piece.length for _, pieces in self._plan for piece in pieces])
        for low, high in position_buckets(self.context):
            figures[f"packing/position_share/{low}-{high}"] = float((lengths - low).clip(0, high - low).sum() / used)
        return figures

    def _rows(self, domain: str, pool: Pool, counts: Mapping[Bucket, int]) -> dict[Bucket, list[list[Piece]]]:
        """So many rows of each of the domain's buckets, from its next documents, in random order.

        The emptiest rows are left out.
        """
        before = self.cursor[domain]
        pieces: dict[Bucket, list[Piece]] = {bucket: [] for bucket in counts}
        # As many pairs as cannot fit into fewer rows than asked for.
        missing = {bucket: count * self.context for bucket, count in counts.items()}
        stream = self._stream(domain, pool)
        while any(left > 0 for left in missing.values()):
            position, number = next(stream)
            for bucket in counts:
                if missing[bucket] > 0 and pool.parts[bucket.part][number]:
                    end = int(pool.ends_D[number])
                    length = int(pool.lengths_D[number])
                    pieces[bucket] += cut(end - length, end, self.context)
                    missing[bucket] -= length
                    self.cursor[domain] = position + 1
        rows = {}
        for bucket, count in counts.items():
            self._pairs_taken[bucket] = count * self.context - missing[bucket]
            part = f"/{LONG}" if bucket.part == LONG else ""
            random = Random(f"{self.seed}/rows/{domain}/{before}{part}")
            rows[bucket], self._pairs_used[bucket] = _pack(pieces[bucket], count, self.context, random)
        return rows

    def _stream(self, domain: str, pool: Pool) -> Iterator[tuple[int, int]]:
        """(position in the stream, number in the shard) of each document from the cursor on, for ever."""
        documents = len(pool.rates_D)
        phase_D = hash_fractions(f"{self.seed}/rate/{domain}", documents)
        epoch, skipped = divmod(self.cursor[domain], documents)
        while True:
            order = list(range(documents))
            Random(f"{self.seed}/epoch/{domain}/{epoch}").shuffle(order)
            there_D = np.floor(pool.rates_D * (epoch + 1) + phase_D) > np.floor(pool.rates_D * epoch + phase_D)
            for place in range(skipped, documents):
                if there_D[order[place]]:
                    yield epoch * documents + place, order[place]
            epoch, skipped = epoch + 1, 0


def _pack(pieces: list[Piece], count: int, context: int, random: Random) -> tuple[list[list[Piece]], int]:
    """The fullest `count` rows of the pieces in random order, and their pairs."""
    random.shuffle(pieces)
    lengths = [piece.length for piece in pieces]
    rows = pack_rows(lengths, context)
    fill = [sum(lengths[index] for index in row) for row in rows]
    fullest = sorted(range(len(rows)), key=lambda row: -fill[row])[:count]
    random.shuffle(fullest)
    return [[pieces[index] for index in rows[row]] for row in fullest], sum(fill[row] for row in fullest)


def hash_fractions(seed: str, count: int) -> np.ndarray:
    """A number in [0, 1) for each of 0 … count-1, which depends on `seed` and the number alone (SplitMix64)."""
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # 32 bits: sums with rates and epochs stay exact enough that rate 1 is always there.
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)) / 2.0**32
