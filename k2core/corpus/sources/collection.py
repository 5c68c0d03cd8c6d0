"""Collection: the shards of a source become tables of documents; what cannot be used is set aside with the reason.

Each shard is read into a folder of its own in the stage's scratch space (`reading`); the tables are made from these
folders once all shards are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from k2core.corpus.documents import COLUMNS
from k2core.corpus.sources import huggingface, parquet
from k2core.corpus.sources.card import SourceCard
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.listing import list_files
from k2core.corpus.sources.reading import CHARACTERS, ROWS, Reading, patiently, read_shard, units_of
from k2core.corpus.sources.set_aside import SetAside
from k2core.corpus.sources.shard import Fault, Shard, one_line, reached
from k2core.corpus.sources.tables import Tables
from k2core.corpus.workers import Corpus, map_shards
from k2core.stage import Job
from k2core.storage import StorageError
from k2core.storage.digest import digest_64

SEEN = "id seen before"
Read = tuple[list[tuple[Shard, Path]], list[str]]
"""Shards with their folders, and what could not be reached."""


def collect(source: FileSource, out: Path, most: int, corpus: Corpus, job: Job) -> SourceCard:
    """Write the documents of `source` to `Tables` in `out`, and what is set aside to `out/<name>.set_aside.jsonl`.

    Memory holds a batch of documents, and eight bytes per id.

    Args:
        most: characters of a table, about.
        corpus: how many shards are read at once. A source with a limit is read one by one.

    Raises:
        StorageError: no shard, no document, or no access.
        ConnectionError: some shards could not be reached; the others are kept for the next attempt.
    """
    listing = huggingface.list_shards if source.kind == "huggingface" else list_files
    shards = patiently(lambda: _listed(listing, source))
    job.say(f"{source.name}: {len(shards):,} shards in {source.path}")
    with job.progress(len(shards), "shard", what=source.name) as bar:
        read = _read_all if source.limit is None else _read_first
        finished, unreached = read(source, shards, corpus, job, bar)
    if unreached:
        raise ConnectionError(
            f"{source.name}: {len(unreached)} of {len(shards)} shards cannot be read: {unreached[0]}; "
            f"the {len(finished)} that were read are kept"
        )
    return _join(source, finished, out, most)


def _read_all(source: FileSource, shards: list[Shard], corpus: Corpus, job: Job, bar: Any) -> Read:
    """All shards, several at once."""
    places = [(shard, _folder(source, shard, None, job)) for shard in shards]
    units = units_of(source, places)
    left = {name: unit for name, unit in units.items() if not all(folder.exists() for _, folder in unit)}
    bar.update(sum(len(unit) for name, unit in units.items() if name not in left))
    unreached: list[str] = []
    for name, missed in map_shards(Reading(source, left), list(left), corpus, job.scratch / "workers"):
        unreached += missed
        bar.update(len(left[name]))
    return [(shard, folder) for shard, folder in places if folder.exists()], unreached


def _read_first(source: FileSource, shards: list[Shard], _: Corpus, job: Job, bar: Any) -> Read:
    """Shards up to the limit, one after the other: how many documents the next may give depends on those before."""
    finished: list[tuple[Shard, Path]] = []
    count = 0
    for shard in shards:
        left = source.limit - count if source.limit else 0
        if left == 0:
            break
        folder = _folder(source, shard, left, job)
        try:
            if not folder.exists():
                patiently(lambda: read_shard(source, shard, left, folder))  # noqa: B023 (called at once)
        except ConnectionError as error:
            return finished, [f"{shard.name} ({one_line(error)})"]
        finished.append((shard, folder))
        count += _count(folder)
        bar.update()
    return finished, []


def _folder(source: FileSource, shard: Shard, left: int | None, job: Job) -> Path:
    state = f"{shard.name} {shard.state} {left}"
    return job.scratch / source.name / hashlib.sha256(state.encode()).hexdigest()[:16]


def _listed(listing: Callable[[FileSource], list[Shard]], source: FileSource) -> list[Shard]:
    with reached():
        return listing(source)


def _count(folder: Path) -> int:
    import pyarrow.parquet as pq

    table = folder / "documents.parquet"
    return pq.read_metadata(table).num_rows if table.exists() else 0


def _join(source: FileSource, finished: list[tuple[Shard, Path]], out: Path, most: int) -> SourceCard:
    """The documents of all shards, in their order; a repeated id is set aside, for ids tell documents apart."""
    card = SourceCard(source.name, source.kind, source.path, source.domain)
    repeats, seen = _repeats([folder for _, folder in finished]), set[int]()
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
                    digest = digest_64(row["id"])
                    if digest in seen:
                        repeated.add(Fault(row["row"], SEEN, row["id"]))
                    else:
                        if digest in repeats:
                            seen.add(digest)
                        kept.append({name: row[name] for name in COLUMNS})
                        card.add(row)
                documents.add(kept)
            repeated.close()
    if not card.documents:
        raise StorageError(f"ingest.files: {source.name}: no document in {len(finished)} shards; {card.first_fault()}")
    return card


def _repeats(folders: list[Path]) -> set[int]:
    """Digests of the ids that come more than once; memory holds eight bytes for each id."""
    import numpy as np
    import pyarrow.parquet as pq

    counts = [_count(folder) for folder in folders]
    digests, end = np.empty(sum(counts), np.uint64), 0
    for folder in (folder for folder, count in zip(folders, counts, strict=True) if count):
        for batch in pq.ParquetFile(folder / "documents.parquet").iter_batches(ROWS, columns=["id"]):
            start, end = end, end + batch.num_rows
            digests[start:end] = [digest_64(id) for id in batch.column("id").to_pylist()]
    digests.sort()
    return set(digests[1:][digests[1:] == digests[:-1]].tolist())


def _batches(table: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    characters = 0
    with table.open("rb") as file:
        for row in parquet.rows(file, [*COLUMNS, "row"], ROWS):
            rows.append(row)
            characters += len(row["text"])
            if len(rows) == ROWS or characters >= CHARACTERS:
                yield rows
                rows, characters = [], 0
    if rows:
        yield rows
