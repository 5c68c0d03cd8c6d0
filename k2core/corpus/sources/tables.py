"""The documents of a source on disk: one table, or numbered ones where one would be too large for a shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from k2core.corpus.documents import document_schema


class Tables:
    """`<source>.parquet` in `out`, or `<source>-00000.parquet` and so on.

    Args:
        most: characters of text from which on the next document goes into another table.
    """

    def __init__(self, out: Path, source: str, most: int) -> None:
        self._out, self._source, self._most = out, source, most
        self._paths: list[Path] = []
        self._file: Any = None
        self._characters = 0

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write documents, as a row group of each table that they go into."""
        start = 0
        for place, row in enumerate(rows, 1):
            self._characters += len(row["text"])
            if self._characters >= self._most:
                self._write(rows[start:place])
                self._close()
                start = place
        if start < len(rows):
            self._write(rows[start:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if len(self._paths) == 1 and kind is None:
            self._paths[0].rename(self._out / f"{self._source}.parquet")

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = document_schema()
        if self._file is None:
            self._paths.append(self._out / f"{self._source}-{len(self._paths):05}.parquet")
            self._file = pq.ParquetWriter(self._paths[-1], schema, compression="zstd")
        self._file.write_table(pa.Table.from_pylist(rows, schema=schema))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._characters = None, 0
