"""Which keys a query sees, from columns and segments alone: a backend may not need a mask of all pairs.

Shapes: B sequences, T positions, S key positions, Q queries per block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BRANCH = 1 << 20
"""Segment `number` + k · BRANCH, for k from 1 to `MOST_BRANCHES`, is a branch of segment `number` (below BRANCH): it
sees that segment and itself. So a prompt is computed once for all responses to it."""
MOST_BRANCHES = 2**31 // BRANCH - 1

QUERY_BLOCK = 128
"""Queries that `reference.py` handles at once: a block sees only the keys up to its end, which skips most of the masked
half, and no mask is larger than [B, 1, QUERY_BLOCK, S]. On two cores in fp32, with the maximum, 1.5 (T 256) to 2.5
times (T 1,024) as fast as `scaled_dot_product_attention`."""

Block = tuple[int, int, int, int]
"""(start, end, first, last): the queries `start` to `end` are in consecutive columns and see only the
keys `first` to `last`; the last of them is in column `last` - 1."""


@dataclass(eq=False)
class Reach:
    """Which of the S keys of their rows the T queries of a forward pass see: their own segment's and, in a
    branch, those of the segment that it is a branch of; none after them.

    Attributes:
        runs: (column, length) of the runs of consecutive columns that hold the T queries, in order. The keys are in
            columns 0 to S - 1.
        segments_BT, segments_BS: segment numbers (below 2³¹) of queries and keys, [1 or B, …]; None where a row is one
            segment.
        gather: makes [B, S, …], in order, from this process's [B, T, …]; the identity where T = S.
        above: largest logits that do not exceed it need not be known: a backend may give -inf for them.
    """

    runs: list[tuple[int, int]]
    segments_BT: Tensor | None
    segments_BS: Tensor | None
    gather: Callable[[Tensor], Tensor]
    above: float = -math.inf
    _made: dict[Any, Any] = field(default_factory=dict)

    def once(self, name: Any, make: Callable[[], Any]) -> Any:
        """The result of the first `make()` for `name`, which all layers of a forward pass share."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def blocks(self, queries: int) -> list[Block]:
        """All queries in blocks of at most `queries`, each with the keys that any of it can see."""
        return self.once(("blocks", queries), lambda: list(self._blocks(queries)))

    def _blocks(self, queries: int) -> Iterator[Block]:
        row = 0
        for column, length in self.runs:
            for offset in range(0, length, queries):
                start, end = row + offset, row + min(offset + queries, length)
                last, first = column + end - row, 0
                if self.segments_BT is not None:  # packed documents, shorter than the row: most keys before are unseen
                    hidden_BQS = self.hidden((start, end, 0, last), self.segments_BT.device)
                    first = int(hidden_BQS.all(dim=(0, 1)).logical_not().int().argmax())
                yield start, end, first, last
            row += length

    def hidden(self, block: Block, device: torch.device) -> Tensor:
        """Which pairs of a block are not allowed, [1 or B, end - start, last - first], bool."""
        start, end, first, last = block
        keys = torch.arange(first, last, device=device)
        columns = torch.arange(last - (end - start), last, device=device)
        hidden_BQS = (keys > columns[:, None])[None]
        if self.segments_BT is not None and self.segments_BS is not None:
            own_BQ1, keys_B1S = self.segments_BT[:, start:end, None], self.segments_BS[:, None, first:last]
            hidden_BQS = hidden_BQS | ((own_BQ1 != keys_B1S) & (own_BQ1 % BRANCH != keys_B1S))
        return hidden_BQS
