"""The training data of one phase as a pure function of its step.

The documents of a domain form an endless stream: one seeded permutation after another. A phase takes the next ones
from where the phase before it stopped (`cursor`), so no document comes twice before every other has come once. What
it takes is packed into rows, and the rows of the domains are dealt out by the mixture. Nothing depends on processes
or on what was read before. Thin: a phase's rows are planned in memory, which suits one node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random

import numpy as np

from k2core.corpus.batch import Batch
from k2core.corpus.mixture import domain_rows
from k2core.corpus.packing import Piece, cut, pack_rows, position_buckets, to_batch
from k2core.corpus.shards import Shards
from k2core.storage import StorageError


class PhaseSource:
    """Batches of a phase: `batch(step)` for step 0 … steps-1.

    Args:
        weights: share of tokens by domain.
        cursor: documents that earlier phases took, by domain.

    Raises:
        StorageError: a domain of the mixture is not in the shards.
        ValueError: the weights cannot be a mixture.

    Attributes:
        cursor: documents taken by domain, this phase included.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        weights: Mapping[str, float],
        steps: int,
        batch_rows: int,
        context: int,
        seed: int,
        cursor: Mapping[str, int],
    ) -> None:
        self.shards, self.context, self.batch_rows, self.seed = shards, context, batch_rows, seed
        self.cursor: dict[str, int] = {name: cursor.get(name, 0) for name in sorted({*cursor, *weights})}
        self._before = dict(self.cursor)
        self._pairs_used: Counter[str] = Counter()
        self._pairs_taken: Counter[str] = Counter()
        domains = domain_rows(weights, steps * batch_rows)
        queues = {domain: iter(self._rows(domain, count)) for domain, count in sorted(Counter(domains).items())}
        self._plan = [(domain, next(queues[domain])) for domain in domains]

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """Batch number `step` of the phase, or of its rows only `rows`."""
        chosen = self._chosen(step)
        if rows is not None:
            chosen = chosen[rows.start : rows.stop]
        packed = ((self.shards.tokens("train", domain), pieces) for domain, pieces in chosen)
        return to_batch(packed, self.context, self.shards.eos_id)

    def samples(self, step: int) -> list[str]:
        """`domain/number` of each training document in batch number `step`, as numbered in the shards."""
        starts: dict[str, list[int]] = {}
        for domain, pieces in self._chosen(step):
            starts.setdefault(domain, []).extend(piece.start + 1 for piece in pieces)
        names = []
        for domain in sorted(starts):
            ends = self.shards.document_ends("train", domain)  # a scan of the whole shard
            names += [f"{domain}/{number}" for number in np.unique(np.searchsorted(ends, starts[domain], side="right"))]
        return names

    def _chosen(self, step: int) -> list[tuple[str, list[Piece]]]:
        chosen = self._plan[step * self.batch_rows : (step + 1) * self.batch_rows]
        if len(chosen) < self.batch_rows:
            raise IndexError(f"step {step} is beyond the {len(self._plan) // self.batch_rows} steps of the phase")
        return chosen

    def figures(self) -> dict[str, float]:
        """Token accounting: by domain the targets and the epochs so far; shares of padding, of cropping, of targets by
        position (a model learns a long context only from the late ones)."""
        used, taken = sum(self._pairs_used.values()), sum(self._pairs_taken.values())
        figures = {f"mixture/tokens/{domain}": float(count) for domain, count in sorted(self._pairs_used.items())}
        for domain in sorted(self._pairs_used):
            documents = self.shards.manifest["train"][domain]["documents"]
            figures[f"mixture/epochs/{domain}"] = self.cursor[domain] / documents
        figures["packing/padding_share"] = 1 - used / (len(self._plan) * self.context)
        figures["packing/cropped_share"] = 1 - used / taken
        lengths = np.array([piece.length for _, pieces in self._plan for piece in pieces])
        for low, high in position_buckets(self.context):
            figures[f"packing/position_share/{low}-{high}"] = float((lengths - low).clip(0, high - low).sum() / used)
        return figures

    def _rows(self, domain: str, count: int) -> list[list[Piece]]:
        """`count` rows of the domain's next documents, in random order; the emptiest rows are left out."""
        pieces: list[Piece] = []
        pairs = 0
        for start, end in self._documents(domain):
            pieces += cut(start, end, self.context)
            pairs += end - start
            self.cursor[domain] += 1
            if pairs >= count * self.context:  # that many pairs cannot fit into fewer rows than asked for
                break
        random = Random(f"{self.seed}/rows/{domain}/{self._before[domain]}")
        random.shuffle(pieces)
        lengths = [piece.length for piece in pieces]
        rows = pack_rows(lengths, self.context)
        fill = [sum(lengths[index] for index in row) for row in rows]
        fullest = sorted(range(len(rows)), key=lambda row: -fill[row])[:count]
        random.shuffle(fullest)
        self._pairs_taken[domain], self._pairs_used[domain] = pairs, sum(fill[row] for row in fullest)
        return [[pieces[index] for index in rows[row]] for row in fullest]

    def _documents(self, domain: str) -> Iterator[tuple[int, int]]:
        """(start, end) of each document of the stream from the cursor on, for ever."""
        ends = self.shards.document_ends("train", domain)
        if not len(ends):
            raise StorageError(f"{self.shards.folder}: domain {domain} has no documents to train on")
        epoch, skipped = divmod(self._before[domain], len(ends))
        while True:
            order = list(range(len(ends)))
            Random(f"{self.seed}/epoch/{domain}/{epoch}").shuffle(order)
            for number in order[skipped:]:
                yield (int(ends[number - 1]) if number else 0), int(ends[number])
            epoch, skipped = epoch + 1, 0
