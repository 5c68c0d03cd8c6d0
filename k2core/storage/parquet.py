"""Parquet tables with declared columns; what is missing or torn is named.

Shapes: R rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2core.storage.atomic import publish
from k2core.storage.disk import of_the_machine

GROUP_ROWS, GROUP_BYTES = 2**16, 2**26
"""Most rows and bytes of a row group of a table that is written as it comes."""


class StorageError(RuntimeError):
    """A file that cannot be read or written as asked; the message says which and what to do."""


def write_table(path: Path, rows: Iterable[dict[str, Any]], schema: Any) -> int:
    """Write `rows` (dictionaries) as one Parquet file with the pyarrow `schema`, atomically.

    The bytes depend on the rows and the schema alone (no timestamps). Returns the number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows), schema=schema)
    with publish(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")
    return table.num_rows


@contextmanager
def stream_table(path: Path, schema: Any) -> Iterator[Callable[[Any], None]]:
    """Yield a function that appends a pyarrow table to the Parquet file at `path`, which appears when the block ends.

    Memory holds one row group. Where one ends depends on the rows alone, not on the tables in which they come, so equal
    rows give equal bytes; those of `write_table` where one row group holds them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Any] = []
    rows = size = 0
    with publish(path) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as file:

        def write() -> None:
            nonlocal rows, size
            file.write_table(pa.concat_tables([schema.empty_table(), *waiting]).combine_chunks())
            waiting.clear()
            rows = size = 0

        def append(table: Any) -> None:
            nonlocal rows, size
            table = table.select(schema.names).cast(schema)
            ends_R = _row_bytes(table).cumsum()
            start = before = 0
            while start < table.num_rows:
                fitting = int(ends_R.searchsorted(before + GROUP_BYTES - size, side="right")) - start
                count = min(max(fitting, 0), GROUP_ROWS - rows, table.num_rows - start)
                if not count and rows:
                    write()
                    continue
                count = count or 1  # a row that is larger than a group
                waiting.append(table.slice(start, count))
                rows, start = rows + count, start + count
                size, before = size + int(ends_R[start - 1]) - before, int(ends_R[start - 1])

        yield append
        write()


def _row_bytes(table: Any) -> Any:
    """Bytes of each row's strings and 8 for each other value, as numpy int64."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    bytes_R = np.zeros(table.num_rows, np.int64)
    for name, kind in zip(table.schema.names, table.schema.types, strict=True):
        bytes_R += pc.fill_null(pc.binary_length(table[name]), 0).to_numpy() if pa.types.is_string(kind) else 8
    return bytes_R


def read_table(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one Parquet file as dictionaries.

    Raises:
        StorageError: the file is missing, corrupt, or lacks one of `columns`.
    """
    rows: list[dict[str, Any]] = read_columns(path, columns).to_pylist()
    return rows


def read_columns(path: Path, columns: Sequence[str] | None = None, group: int | None = None) -> Any:
    """One Parquet file, or one row group of it, as a pyarrow table.

    Raises:
        StorageError: the file is missing, corrupt, or lacks one of `columns`.
    """
    import pyarrow as pa

    file = _opened(path)
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if missing:
        found = ", ".join(file.schema_arrow.names)
        raise StorageError(f"{path}: no column {', '.join(sorted(missing))}; it has {found}")
    try:
        chosen = list(columns) if columns else None
        return file.read(columns=chosen) if group is None else file.read_row_group(group, columns=chosen)
    except (pa.ArrowInvalid, OSError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{path}: corrupt Parquet data ({error}); delete it and re-run its stage") from None


def count_rows(path: Path) -> int:
    """The number of rows of one Parquet file, from its footer.

    Raises:
        StorageError: the file is missing or corrupt.
    """
    return sum(group_rows(path))


def group_rows(path: Path) -> list[int]:
    """The number of rows of each row group of one Parquet file, from its footer.

    Raises:
        StorageError: the file is missing or corrupt.
    """
    metadata = _opened(path).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise StorageError(f"{path}: no such table; run the stage that makes it (`dvc repro`)") from None
    except (pa.ArrowInvalid, OSError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{path}: not a readable Parquet file ({error}); delete it and re-run its stage") from None


def read_tables(folder: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """`(file name, rows)` for every Parquet file of `folder`, in name order.

    Raises:
        StorageError: the folder has no Parquet file (a stage that produced nothing fails loudly).
    """
    for name in table_names(folder):
        yield name, read_table(folder / name, columns)


def table_names(folder: Path) -> list[str]:
    """The names of the Parquet files of `folder`, in order.

    Raises:
        StorageError: the folder has none.
    """
    if names := sorted(file.name for file in folder.glob("*.parquet")):
        return names
    raise StorageError(f"{folder}: no Parquet files; run the stage that makes it (`dvc repro`)")
