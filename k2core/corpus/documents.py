"""The document: what a source yields, and the columns of every documents' table (docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from k2core.stage import StageError
from k2core.storage import fraction_of, read_table

T = TypeVar("T")
Domain = Literal["web", "code", "math", "knowledge"]
DOMAINS: tuple[Domain, ...] = ("web", "code", "math", "knowledge")
CUT = ("package_docs", "python")
"""Sources that cut their texts into parts. Sources of `ingest.files` do not, and cannot have these names."""
UNDETERMINED = "und"
"""ISO 639-2 for a language that the source does not state."""


@dataclass(frozen=True)
class Document:
    """One text and where it comes from.

    `id` is `<source>/<key>`, followed by `#<part>` where a source of `CUT` cut a text into parts. `origin` leads back
    to the text (an address, or package, version and file), `date` says when it was there, in ISO 8601, where the source
    does; `license` and `attribution` are what its use requires.
    """

    id: str
    text: str
    domain: Domain
    source: str
    license: str
    origin: str
    attribution: str
    language: str
    date: str = ""


COLUMNS = tuple(field.name for field in fields(Document))


def document_schema(*extra: tuple[str, Any]) -> Any:
    """The pyarrow schema of a documents' table, followed by the `(name, type)` columns of `extra`."""
    import pyarrow as pa

    return pa.schema([*((name, pa.string()) for name in COLUMNS), *extra])


def read_beside(
    folder: Path, name: str, documents: Iterable[dict[str, Any]], columns: Iterable[str], stage: str
) -> list[dict[str, Any]]:
    """The table `name` that `stage` wrote to `folder` for the documents' table of that name, row by row.

    Args:
        columns: the ones to read; `id` must be among them.

    Raises:
        StageError: its rows are not the documents'.
    """
    table = read_table(folder / name, list(columns))
    if [row["id"] for row in table] != [row["id"] for row in documents]:
        raise StageError(f"{folder / name}: its rows are not those of the documents of that name; run {stage} again")
    return table


def source_of(table: str) -> str:
    """The source of a documents' table by its file name: `<source>.parquet`, or `<source>-<number>.parquet` of several.

    The name of a source has no hyphen.
    """
    return Path(table).stem.partition("-")[0]


def group_of(document_id: str) -> str:
    """The id without its part: parts of one text stay together when documents are split.

    In the ids of other sources `#` is a character like any other: ``acme/kb#0`` and ``acme/kb#1`` are two texts.
    """
    cut = document_id.partition("/")[0] in CUT
    return (cut and document_id.rpartition("#")[0]) or document_id


def sample(items: Iterable[T], limit: int, key: Any) -> list[T]:
    """The `limit` items whose `key(item)` hashes lowest, in the order of `items`.

    The choice depends on the keys alone; a larger limit includes a smaller one's choice.
    """
    found: Sample[T] = Sample(limit, key)
    found.see(items)
    return found.items


class Sample(Generic[T]):
    """`sample` of items that come in parts; only the ones that may be chosen are in memory."""

    def __init__(self, limit: int, key: Callable[[T], str]) -> None:
        self._limit, self._key, self._seen = limit, key, 0
        self._lowest: list[tuple[float, str, int, T]] = []

    def see(self, items: Iterable[T]) -> None:
        """Take further items into account."""
        start = self._seen
        for place, item in enumerate(items, start):
            key = self._key(item)
            self._lowest.append((fraction_of(key), key, place, item))
            self._seen = place + 1
        self._lowest = nsmallest(self._limit, self._lowest, key=itemgetter(0, 1))

    @property
    def items(self) -> list[T]:
        """The chosen ones, in the order in which they came."""
        return [item for *_, item in sorted(self._lowest, key=itemgetter(2))]


class Lowest:
    """The keys that `sample` would choose of keys that come in parts, asked for by `in`.

    Eight bytes of each chosen key are in memory, its hash; keys of equal hashes are chosen together.

    Args:
        limit: how many are chosen; None for all.

    Attributes:
        seen: how many keys there were.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit, self.seen = limit, 0
        self._hashes: Any = ()
        self._highest = 1.0 if limit is None else -1.0

    def see(self, keys: Iterable[str]) -> None:
        """Take further keys into account."""
        import numpy as np

        hashes = np.array([fraction_of(key) for key in keys])
        self.seen += len(hashes)
        if self._limit and len(hashes):
            hashes = np.concatenate([self._hashes, hashes])
            self._hashes = np.partition(hashes, self._limit - 1)[: self._limit] if len(hashes) > self._limit else hashes
            self._highest = self._hashes.max()

    def __contains__(self, key: str) -> bool:
        return fraction_of(key) <= self._highest

    def __len__(self) -> int:
        return self.seen if self._limit is None else min(self.seen, self._limit)
