"""The tables of the corpus: which rows there are of a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from k2core.lineage.chain import Chain
from k2core.lineage.text import NEAREST
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine

Row = dict[str, Any]


class Corpus:
    """The tables that the stages of a chain left; a stage that is not in the chain has no rows."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def rows(self, stage: str, table: str, column: str = "", value: str = "") -> list[Row]:
        """The rows, all or those with this value, of the tables of a stage that match `table` (e.g. `*.parquet`).

        Each has its table's path as `table` and its number in it, from 0, as `row`.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found: list[Row] = []
        for path, content in self._tables(stage, table, None):
            numbered = content.append_column("row", pa.array(range(len(content)), pa.int64()))
            chosen = numbered.filter(pc.field(column) == value) if column else numbered
            found += [{**row, "table": path} for row in chosen.to_pylist()]
        return found

    def columns(self, stage: str, table: str, columns: Iterable[str]) -> Iterator[tuple[Path, dict[str, list[Any]]]]:
        """Path and columns of each table of a stage that matches `table`."""
        for path, content in self._tables(stage, table, list(columns)):
            yield path, content.to_pydict()

    def _tables(self, stage: str, table: str, columns: list[str] | None) -> Iterator[tuple[Path, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        folder = self.chain.folder(stage)
        if folder is None:
            return
        paths = sorted(folder.glob(table))
        if not paths:
            raise StorageError(f"{folder / table}: not here, though {stage} made it; `dvc checkout {folder}` may help")
        for path in paths:
            try:
                yield path, pq.read_table(path, columns=columns)
            except (pa.ArrowInvalid, OSError) as error:
                if of_the_machine(error):
                    raise
                raise StorageError(f"{path}: not readable ({error}); delete it and run {stage} again") from None

    def ids(self) -> set[str]:
        """The ids of all documents, also of those made from others and of those set aside for a reason."""
        found: set[str] = set()
        for stage, table in (("ingest", "*.parquet"), ("questions", "*.parquet"), ("recall", "*.parquet")):
            for _, columns in self.columns(stage, table, ["id"]):
                found.update(columns["id"])
        for _, columns in self.columns("rephrase", "verdicts.parquet", ["style", "number", "source_id"]):
            found.update(map(rewrite_id, *columns.values()))
        return found

    def complete(self, wanted: str) -> str:
        """The id that is `wanted` or begins with it.

        Raises:
            StorageError: none does, or several do; the message names the nearest.
        """
        ids = self.ids()
        if wanted in ids:
            return wanted
        fitting = sorted(name for name in ids if name.startswith(wanted))
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            some = ", ".join(fitting[:NEAREST])
            raise StorageError(f"{wanted}: {len(fitting):,} ids begin so, e.g. {some}; give more of the one you mean")
        inside = sorted((name for name in ids if wanted.lower() in name.lower()), key=lambda name: (len(name), name))
        nearest = inside[:NEAREST] or get_close_matches(wanted, sorted(ids), NEAREST, 0.4)
        hint = f"; the nearest ids: {', '.join(nearest)}" if nearest else ""
        raise StorageError(f"{wanted}: no document of {self.chain.folder('ingest')} has this id{hint}")


def rewrite_id(style: str, number: int, source_id: str) -> str:
    """The id that `rephrase` gives the document of a rewrite."""
    return f"rephrase/{style}/{number}/{source_id}"
