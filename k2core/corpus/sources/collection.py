"""Collection: the shards of a source become tables of documents; what cannot be used is set aside with the reason.

A shard is read whole or not at all, into a folder of its own in the stage's scratch space. The folder appears by
rename, so a killed stage reads no shard twice. The tables are made from these folders once all shards are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from k2core.corpus.documents import COLUMNS, Document, document_schema
from k2core.corpus.sources import huggingface, jsonl, parquet, text, warc
from k2core.corpus.sources.card import SourceCard
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.listing import list_files
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
    reached,
    too_large,
    too_many_rows,
)
from k2core.corpus.sources.tables import Tables
from k2core.machine.memory import limited_memory
from k2core.stage import Job
from k2core.storage import StorageError, publish

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
SEEN = "id seen before"
_ROWS, _CHARACTERS = 1024, 32 * 2**20
"""Limits of the documents in memory at a time: their number, and their characters."""


def collect(source: FileSource, out: Path, most: int, job: Job) -> SourceCard:
    """Write the documents of `source` to `Tables` in `out`, and what is set aside to `out/<name>.set_aside.jsonl`.

    Memory holds a batch of documents, and eight bytes per id.

    Args:
        most: characters of a table, about.

    Raises:
        StorageError: no shard, no document, or no access.
        ConnectionError: some shards could not be reached; the others are kept for the next attempt.
    """
    listing = huggingface.list_shards if source.kind == "huggingface" else list_files
    shards = _patiently(lambda: _listed(listing, source))
    job.say(f"{source.name}: {len(shards):,} shards in {source.path}")
    finished: list[tuple[Shard, Path]] = []
    unreached: list[str] = []
    count = 0
    with job.progress(len(shards), "shard", what=source.name) as bar:
        for shard in shards:
            left = None if source.limit is None else source.limit - count
            if left == 0:
                break
            state = f"{shard.name} {shard.state} {left}"
            folder = job.scratch / source.name / hashlib.sha256(state.encode()).hexdigest()[:16]
            try:
                if not folder.exists():
                    _patiently(lambda: _read_shard(source, shard, left, folder))  # noqa: B023 (called at once)
            except ConnectionError as error:
                unreached.append(f"{shard.name} ({one_line(error)})")
                if source.limit is not None:
                    break  # how many the next shards may give depends on it
            else:
                finished.append((shard, folder))
                count += _count(folder)
            bar.update()
    if unreached:
        raise ConnectionError(
            f"{source.name}: {len(unreached)} of {len(shards)} shards cannot be read: {unreached[0]}; "
            f"the {len(finished)} that were read are kept"
        )
    return _join(source, finished, out, most)


def _patiently(work: Callable[[], Any]) -> Any:
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


def _listed(listing: Callable[[FileSource], list[Shard]], source: FileSource) -> list[Shard]:
    with reached():
        return listing(source)


def _read_shard(source: FileSource, shard: Shard, limit: int | None, folder: Path) -> None:
    """Publish `folder` with `documents.parquet` and `set_aside.jsonl`, the latter alone for an unusable shard."""
    try:
        with publish(folder) as scratch:
            scratch.mkdir()
            with limited_memory(MEMORY):
                _write_shard(source, shard, limit, scratch)
    except (Unusable, MemoryError) as error:
        known = error if isinstance(error, Unusable) else too_large()
        with publish(folder) as scratch:
            scratch.mkdir()
            with (scratch / "set_aside.jsonl").open("w", encoding="utf-8") as file:
                SetAside(source.name, shard.name, file.write).add(Fault(None, known.reason, known.detail))


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
            if len(rows) == _ROWS or characters >= _CHARACTERS:
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
    )


def _count(folder: Path) -> int:
    import pyarrow.parquet as pq

    table = folder / "documents.parquet"
    return pq.read_metadata(table).num_rows if table.exists() else 0


def _join(source: FileSource, finished: list[tuple[Shard, Path]], out: Path, most: int) -> SourceCard:
    """The documents of all shards, in their order; a repeated id is set aside, for ids tell documents apart."""
    card = SourceCard(source.name, source.kind, source.path, source.domain)
    seen = set()
    with (
        Tables(out, source.name, most) as documents,
        (out / f"{source.name}.set_aside.jsonl").open("w", encoding="utf-8") as file,
    ):

        def write(entry: str) -> None:
            file.write(entry)
            card.set_aside(json.loads(entry))

        for shard, folder in finished:
            with (folder / "set_aside.jsonl").open(encoding="utf-8") as entries:
                for entry in entries:
                    write(entry)
            repeated = SetAside(source.name, shard.name, write)
            for rows in _batches(folder / "documents.parquet") if _count(folder) else ():
                kept = []
                for row in rows:
                    digest = hashlib.blake2b(row["id"].encode(), digest_size=8).digest()
                    if digest in seen:
                        repeated.add(Fault(row["row"], SEEN, row["id"]))
                    else:
                        seen.add(digest)
                        kept.append({name: row[name] for name in COLUMNS})
                        card.add(row)
                documents.add(kept)
            repeated.close()
    if not card.documents:
        raise StorageError(f"ingest.files: {source.name}: no document in {len(finished)} shards; {card.first_fault()}")
    return card


def _batches(table: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    characters = 0
    with table.open("rb") as file:
        for row in parquet.rows(file, [*COLUMNS, "row"], _ROWS):
            rows.append(row)
            characters += len(row["text"])
            if len(rows) == _ROWS or characters >= _CHARACTERS:
                yield rows
                rows, characters = [], 0
    if rows:
        yield rows
