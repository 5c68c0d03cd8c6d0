"""Parquet tables with declared columns; what is missing or torn is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from k2core.storage.atomic import publish
from k2core.storage.disk import of_the_machine


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


def read_table(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of one Parquet file as dictionaries.

    Raises:
        StorageError: the file is missing, corrupt, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise StorageError(f"{path}: no such table; run the stage that makes it (`dvc repro`)") from None
    except (pa.ArrowInvalid, OSError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{path}: not a readable Parquet file ({error}); delete it and re-run its stage") from None
    missing = set(columns or ()) - set(file.schema_arrow.names)
    if missing:
        found = ", ".join(file.schema_arrow.names)
        raise StorageError(f"{path}: no column {', '.join(sorted(missing))}; it has {found}")
    try:
        return file.read(columns=list(columns) if columns else None).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{path}: corrupt Parquet data ({error}); delete it and re-run its stage") from None


def read_tables(folder: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """`(file name, rows)` for every Parquet file of `folder`, in name order.

    Raises:
        StorageError: the folder has no Parquet file (a stage that produced nothing fails loudly).
    """
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise StorageError(f"{folder}: no Parquet files; run the stage that makes it (`dvc repro`)")
    for file in files:
        yield file.name, read_table(file, columns)
