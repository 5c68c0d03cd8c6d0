"""Parquet: one document a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k2core.corpus.sources.shard import (
    BAD_UTF8,
    NO_COLUMN,
    Fault,
    Record,
    Shard,
    Unusable,
    no_column,
    one_line,
    open_raw,
    to_record,
)

_ROWS = 256
"""Rows in memory at a time."""


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The record or the fault of every row; only the named columns are read.

    Raises:
        Unusable: the file lacks one of `columns`.
    """
    import pyarrow.parquet as pq

    with open_raw(shard) as file:
        table = pq.ParquetFile(file)
        wanted = list(dict.fromkeys(columns.values()))
        there = table.schema_arrow.names
        if missing := [column for column in wanted if column not in there]:
            raise Unusable(NO_COLUMN, no_column(missing, there))
        row = 0
        for batch in table.iter_batches(batch_size=_ROWS, columns=wanted):
            for values in _rows(batch):
                row += 1
                if isinstance(values, UnicodeDecodeError):
                    yield Fault(row, BAD_UTF8, one_line(values))
                else:
                    yield to_record(row, values, columns)


def _rows(batch: Any) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch; one that is no UTF-8 (Arrow does not look) costs only itself."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield error
