"""Reading: each shard of a source becomes a folder with its documents, and with what is set aside; several at once.

A shard is read whole or not at all. Its folder appears by rename, so a stage that is killed reads no shard twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2core.corpus.documents import Document, document_schema
from k2core.corpus.sources import huggingface, jsonl, parquet, text, warc
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.set_aside import SetAside
from k2core.corpus.sources.shard import (
    EMPTY_SHARD,
    MEMORY,
    Fault,
    Record,
    Shard,
    Unusable,
    named_faults,
    one_line,
    too_large,
    too_many_rows,
)
from k2core.corpus.workers import Watch
from k2core.machine.memory import limited_memory
from k2core.storage import publish

READERS: dict[str, Callable[[Shard, Mapping[str, str]], Iterator[Record | Fault]]] = {
    "jsonl": jsonl.read,
    "parquet": parquet.read,
    "text": text.read,
    "warc": warc.read,
    "huggingface": huggingface.read,
}
ATTEMPTS, PAUSE, LONGEST_PAUSE = 4, 1.0, 30.0
"""Tries of a shard whose faults may pass, and the seconds between them (growing, with jitter). s3fs and
`datasets` have tried each request several times before."""
KILLER = "killed the process that read it"
ROWS, CHARACTERS = 1024, 32 * 2**20
"""Limits of the documents in memory at a time: their number, and their characters."""
_FILES, _BYTES = 1000, 64 * 2**20
"""Shards that a process reads at most, and their size: a process takes a second to start."""


@dataclass
class Reading:
    """Reads the shards of one unit: `(shard, folder)` pairs.

    Returns:
        What could not be reached now, a sentence a shard.
    """

    source: FileSource
    units: Mapping[str, list[tuple[Shard, Path]]]

    def __call__(self, unit: str, watch: Watch) -> list[str]:
        unreached = []
        for shard, folder in self.units[unit]:
            if folder.exists():
                continue
            if watch.kills(shard.name):
                _write_fault(self.source, shard, Fault(None, KILLER, "twice"), folder)
                continue
            watch.at(shard.name)
            try:
                patiently(lambda: read_shard(self.source, shard, None, folder))  # noqa: B023 (called at once)
            except ConnectionError as error:
                unreached.append(f"{shard.name} ({one_line(error)})")
        return unreached


def units_of(source: FileSource, shards: list[tuple[Shard, Path]]) -> dict[str, list[tuple[Shard, Path]]]:
    """The shards in groups of neighbours, each a process's work; large ones alone."""
    units: dict[str, list[tuple[Shard, Path]]] = {}
    unit: list[tuple[Shard, Path]] = []
    size = _BYTES
    for shard, folder in shards:
        if size >= _BYTES or len(unit) == _FILES:
            unit, size = [], 0
            units[f"{source.name}-{len(units):05}"] = unit
        unit.append((shard, folder))
        size += _BYTES if shard.size is None else shard.size
    return units


def patiently(work: Callable[[], Any]) -> Any:
    """`work()`, repeated while it raises a ConnectionError.

    Raises:
        ConnectionError: the last of `ATTEMPTS` tries failed.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

    wait = wait_exponential_jitter(initial=PAUSE, max=LONGEST_PAUSE, jitter=PAUSE)
    retrying = Retrying(
        retry=retry_if_exception_type(ConnectionError), stop=stop_after_attempt(ATTEMPTS), wait=wait, reraise=True
    )
    try:
        return retrying(work)
    except ConnectionError as error:
        raise ConnectionError(f"{one_line(error)}, tried {ATTEMPTS} times") from error


def read_shard(source: FileSource, shard: Shard, limit: int | None, folder: Path) -> None:
    """Publish `folder` with `documents.parquet` and `set_aside.jsonl`, the latter alone for an unusable shard."""
    try:
        with publish(folder) as scratch:
            scratch.mkdir()
            with limited_memory(MEMORY):
                _write_shard(source, shard, limit, scratch)
    except (Unusable, MemoryError) as error:
        known = error if isinstance(error, Unusable) else too_large()
        _write_fault(source, shard, Fault(None, known.reason, known.detail), folder)


def _write_fault(source: FileSource, shard: Shard, fault: Fault, folder: Path) -> None:
    with publish(folder) as scratch:
        scratch.mkdir()
        with (scratch / "set_aside.jsonl").open("w", encoding="utf-8") as file:
            SetAside(source.name, shard.name, file.write).add(fault)


def _write_shard(source: FileSource, shard: Shard, limit: int | None, folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = document_schema(("row", pa.int64()))
    count = characters = 0
    rows: list[dict[str, Any]] = []
    with (
        closing(read(source, shard)) as found,
        pq.ParquetWriter(folder / "documents.parquet", schema, compression="zstd") as documents,
        (folder / "set_aside.jsonl").open("w", encoding="utf-8") as file,
    ):
        set_aside = SetAside(source.name, shard.name, file.write)
        for item in found:
            if item.row is not None and item.row > shard.most_rows:
                raise too_many_rows(shard)
            if isinstance(item, Fault):
                set_aside.add(item)
                continue
            rows.append({**vars(_document(source, shard, item)), "row": item.row})
            count += 1
            characters += len(item.text)
            if len(rows) == ROWS or characters >= CHARACTERS:
                documents.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows, characters = [], 0
            if count == limit:
                break
        if rows:
            documents.write_table(pa.Table.from_pylist(rows, schema=schema))
        if not count and not set_aside.counts:
            set_aside.add(Fault(None, EMPTY_SHARD, "there is nothing in it"))
        set_aside.close()


def read(source: FileSource, shard: Shard) -> Generator[Record | Fault]:
    """What the reader of a source's kind yields. Faults of the consumer, which writes, do not come through here.

    Raises:
        Unusable: the shard as a whole cannot be used.
        ConnectionError: it cannot be reached now.
    """
    columns: Mapping[str, str] = {field: column for field, column in source.columns.items()}
    with named_faults():
        yield from READERS[source.kind](shard, columns)


def _document(source: FileSource, shard: Shard, record: Record) -> Document:
    stated = record.fields
    return Document(
        id=f"{source.name}/{stated.get('id') or f'{shard.key}/{record.row}'}",
        text=record.text,
        domain=source.domain,
        source=source.name,
        license=stated.get("license") or source.license,
        origin=stated.get("origin") or f"{shard.name}#{record.row}",
        attribution=stated.get("attribution") or source.attribution,
        language=stated.get("language") or source.language,
        date=stated.get("date") or "",
    )
