"""Parquet: one document per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

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

_ROWS, _BYTES = 256, 32 * 2**20
"""Limits of the rows decoded at a time: their number, and their bytes as the file states them."""


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The record or the fault of every row; only the named columns are read.

    Raises:
        Unusable: the file lacks one of `columns`.
    """
    with open_raw(shard) as file:
        for row, values in enumerate(rows(file, list(dict.fromkeys(columns.values())), _ROWS), 1):
            if isinstance(values, UnicodeDecodeError):
                yield Fault(row, BAD_UTF8, one_line(values))
            else:
                yield to_record(row, values, columns)


def rows(file: BinaryIO, columns: Sequence[str], at_once: int) -> Iterator[Any]:
    """The rows of a Parquet file, made one by one; a row that is not UTF-8 (Arrow does not check) gives its error.

    A value that many rows share is held once, as in the file: with a dictionary of one long text, the rows of a file
    of a few hundred bytes would fill any memory.

    Args:
        at_once: rows that Arrow decodes at a time, fewer where they are long.

    Raises:
        Unusable: the file lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = pq.ParquetFile(file)
    schema, metadata = about.schema_arrow, about.metadata
    if missing := [column for column in columns if column not in schema.names]:
        raise Unusable(NO_COLUMN, no_column(missing, schema.names))
    texts = [name for name in columns if pa.types.is_string(schema.field(name).type)]
    table = pq.ParquetFile(file, read_dictionary=texts, metadata=metadata)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = max(1, int(at_once * _BYTES / max(_BYTES, _longest_batch(group, columns, at_once))))
        for batch in table.iter_batches(size, [number], list(columns)):
            for place in range(batch.num_rows):
                try:
                    yield {name: batch.column(name)[place].as_py() for name in columns}
                except UnicodeDecodeError as error:
                    yield error


def _longest_batch(group: Any, columns: Sequence[str], at_once: int) -> float:
    """Bytes of `at_once` rows of a row group in `columns`, as the file states them."""
    own = (group.column(number) for number in range(group.num_columns))
    size = sum(column.total_uncompressed_size for column in own if column.path_in_schema.split(".")[0] in columns)
    return size * at_once / max(1, group.num_rows)
