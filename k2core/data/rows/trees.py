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
    """Rows of one width, and where each sequence stands, by its number.

    Segments number the trees of a row from 0; padding is a segment of its own.
    """

    tokens_RT: Tensor
    positions_RT: Tensor
    segments_RT: Tensor
    places: Mapping[int, Place]


def tree_rows(trees: Sequence[Tree], rows: Sequence[Sequence[int]], width: int = 0) -> TreeRows:
    """Rows of trees, given by their indices (`k2core.data.rows.packing.pack_rows`), as wide as the longest of them, or
    `width` if that is more.
    """
    width = max(width, *(sum(len(trees[index]) for index in row) for row in rows))
    tokens, positions = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    segments = torch.tensor([[len(row)] for row in rows]).repeat(1, width)
    places: dict[int, Place] = {}
    for r, row in enumerate(rows):
        ids, at, numbers = list[int](), list[int](), list[int]()  # what the row has so far: tokens, positions, segments
        for segment, tree in enumerate(trees[index] for index in row):
            shared = len(tree.trunk)
            trunk = range(len(ids), len(ids) + shared)
            ids += tree.trunk
            at += range(shared)
            numbers += [segment] * shared
            for branch, (number, own) in enumerate(tree.branches.items(), 1):
                places[number] = Place(r, trunk, range(len(ids), len(ids) + len(own)))
                ids += own
                at += range(shared, shared + len(own))
                numbers += [branch * BRANCH + segment] * len(own)
        tokens[r, : len(ids)], positions[r, : len(ids)] = torch.tensor(ids), torch.tensor(at)
        segments[r, : len(ids)] = torch.tensor(numbers)
    return TreeRows(tokens, positions, segments, places)
