"""Sequences that begin alike, as branches of one trunk: what they share stands in a row once, and is computed once.

Each branch sees the trunk and itself (`k2core.ops.BRANCH`), at the positions that it would have alone.

Shapes: R rows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from k2core.ops import BRANCH

MOST = 2047
"""Branches of one trunk, at most (`BRANCH`)."""


@dataclass(frozen=True)
class Tree:
    """What sequences begin with, and, by the number of each, how it goes on; either may be empty."""

    trunk: Sequence[int]
    branches: Mapping[int, Sequence[int]]

    def __len__(self) -> int:
        """Positions that it takes in a row."""
        return len(self.trunk) + sum(map(len, self.branches.values()))


@dataclass(frozen=True)
class Place:
    """Where a sequence stands: its row, the columns of its trunk, and those of its branch."""

    row: int
    trunk: range
    branch: range


@dataclass(frozen=True)
class TreeRows:
    """Rows as wide as the longest of them, and where each sequence stands, by its number.

    Segments number the trees of a row from 0; padding is a segment of its own.
    """

    tokens_RT: Tensor
    positions_RT: Tensor
    segments_RT: Tensor
    places: Mapping[int, Place]


def tree_rows(trees: Sequence[Tree], rows: Sequence[Sequence[int]]) -> TreeRows:
    """Rows of trees, given by their indices (`k2core.data.rows.packing.pack_rows`)."""
    width = max(sum(len(trees[index]) for index in row) for row in rows)
    tokens, positions = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    segments = torch.tensor([[len(row)] for row in rows]).repeat(1, width)
    places: dict[int, Place] = {}
    for r, row in enumerate(rows):
        at = 0

        def put(ids: Sequence[int], position: int, segment: int, r: int = r) -> range:
            nonlocal at
            columns = range(at, at := at + len(ids))
            tokens[r, columns.start : at] = torch.tensor(ids, dtype=torch.long)
            positions[r, columns.start : at] = torch.arange(position, position + len(ids))
            segments[r, columns.start : at] = segment
            return columns

        for segment, tree in enumerate(trees[index] for index in row):
            trunk = put(tree.trunk, 0, segment)
            for branch, (number, ids) in enumerate(tree.branches.items(), 1):
                places[number] = Place(r, trunk, put(ids, len(trunk), branch * BRANCH + segment))
    return TreeRows(tokens, positions, segments, places)
