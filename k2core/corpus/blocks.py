"""A documents' table in blocks that are read one at a time.

Shapes: R rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2core.corpus.documents import COLUMNS
from k2core.storage import group_rows, read_columns

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Block:
    """Documents that are read together: a row group of a table.

    Attributes:
        name: unlike that of another block.
        first: the number of its first row among those of all blocks.
    """

    name: str
    path: Path
    group: int
    first: int
    rows: int

    def read(self, columns: Sequence[str]) -> Any:
        """Columns of the block, as a pyarrow table.

        Raises:
            StorageError: the table lacks one of them, or cannot be read.
        """
        return read_columns(self.path, columns, self.group)


@dataclass(frozen=True)
class Blocks:
    """The blocks of one table or several, whose rows are numbered on."""

    blocks: list[Block]

    def values(self, rows: np.ndarray, column: str) -> list[Any]:
        """A column's values for some rows, in their order."""
        import pyarrow as pa

        found: list[Any] = [None] * len(rows)
        for block, places in self.by_block(rows):
            taken = block.read([column])[column].take(pa.array(rows[places] - block.first))
            for place, value in zip(places.tolist(), taken.to_pylist(), strict=True):
                found[place] = value
        return found

    def by_block(self, rows: np.ndarray) -> Iterator[tuple[Block, np.ndarray]]:
        """Each block that has some of the `rows`, and which of them, by rising number of the row."""
        import numpy as np

        places = np.argsort(rows, kind="stable")
        edges = np.searchsorted(rows[places], [block.first + block.rows for block in self.blocks])
        start = 0
        for block, end in zip(self.blocks, edges.tolist(), strict=True):
            if end > start:
                yield block, places[start:end]
            start = end


def blocks_of(kind: str, path: Path, first: int = 0) -> list[Block]:
    """The blocks of a table, whose first row has the number `first`; `kind` begins their names.

    Raises:
        StorageError: the table is missing.
    """
    blocks = []
    for group, rows in enumerate(group_rows(path)):
        blocks.append(Block(f"{kind}-{group:05}", path, group, first, rows))
        first += rows
    return [block for block in blocks if block.rows]


def documents_of(block: Block) -> list[dict[str, Any]]:
    """A block's documents, with their split, as dictionaries."""
    rows: list[dict[str, Any]] = block.read([*COLUMNS, "split"]).to_pylist()
    return rows


def tables_of(paths: Iterable[Path]) -> Iterator[Any]:
    """The row groups of several tables, one after the other, as pyarrow tables; a file that is not there has none."""
    for path in paths:
        if path.exists():
            for group in range(len(group_rows(path))):
                yield read_columns(path, group=group)
