"""Checks what the sources give, as far as the recipe tells, and that there is something for them to read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from k2core.corpus.documents import DOMAINS
from k2core.corpus.sources import huggingface
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.listing import is_list, list_files
from k2core.corpus.sources.reading import read
from k2core.corpus.sources.shard import (
    BAD_UTF8,
    CORRUPT,
    EMPTY_SHARD,
    MEMORY,
    NO_COLUMN,
    NOT_JSON,
    TOO_LONG,
    Fault,
    Record,
    Shard,
    Unusable,
    is_temporary,
)
from k2core.machine.memory import limited_memory
from k2core.storage import StorageError
from stages.ingest import SOURCES, Params

BUILT_IN = {name: source.DOMAIN for name, source in SOURCES.items()}
FILES, ROWS, BYTES = 8, 1000, 64 * 2**20
"""What is looked at of an entry: so many files, so many rows of each, and so many bytes of JSON lines."""
ANOTHER_KIND = (
    "set `kind` to what the file is: jsonl (one JSON object per line), parquet, text, warc, or huggingface (a folder "
    "of CSV files, too)"
)


def sources_of(ingest: Params, domain: str) -> list[str]:
    """Names of the sources of `domain` that are not left out."""
    built_in = [name for name, own in BUILT_IN.items() if own == domain and getattr(ingest, name).limit]
    return built_in + [source.name for source in ingest.files if source.domain == domain and source.limit != 0]


def how_to_get(domain: str) -> str:
    """The advice to somebody who lacks documents of `domain`."""
    names = [f"raise ingest.{name}.limit" for name, own in BUILT_IN.items() if own == domain]
    return f"{names[0]} or give ingest.files a source of domain {domain}"


def something_is_read(ingest: Params) -> Iterator[str]:
    if not any(sources_of(ingest, domain) for domain in DOMAINS):
        yield "ingest: every source has limit 0; raise one of the limits or give ingest.files a source"


def files_that_give_documents(ingest: Params) -> Iterator[str]:
    """Entries on this machine whose first files are missing or hold no document where they begin.

    `ingest` sets single rows and files aside, but an entry of which nothing is left cannot be meant. The stage
    `sources` asks for what is elsewhere.
    """
    for source in ingest.files:
        if source.limit == 0 or not _is_here(source):
            continue
        try:
            fault = _fault_of(source)
        except StorageError as error:
            yield str(error)
        except OSError as error:
            if not is_temporary(error):  # which the stage `sources` would try again
                raise
        else:
            if fault:
                yield f"ingest.files: {source.name}: {fault}"


def _is_here(source: FileSource) -> bool:
    if source.kind == "huggingface":  # the name of a dataset may look like a path, but no folder has it
        return source.path.startswith(("/", ".")) or Path(source.path).exists()
    if is_list(source):  # its files may be anywhere
        return False
    return "://" not in source.path or source.path.startswith("file://")


def _fault_of(source: FileSource) -> str:
    """Why the first rows of the first files hold no document, as the first file has it; empty if one holds one."""
    if source.kind != "huggingface":
        shards = list_files(source)
    elif Path(source.path).exists():
        shards = huggingface.list_shards(source)
    else:
        return f"there is no folder {source.path}; correct `path`"
    faults = []
    for shard in shards[:FILES]:
        if (fault := _first_fault(source, shard)) is None:
            return ""
        faults.append((shard.name, fault))
    name, fault = faults[0]
    place = name if fault.row is None else f"{name}, row {fault.row:,}"
    if fault.reason == NO_COLUMN:
        return f"{place}: {fault.detail}; correct `columns`"
    advice = ANOTHER_KIND if fault.reason in (NOT_JSON, CORRUPT, BAD_UTF8, TOO_LONG) else "correct `path` or `columns`"
    return f"{place}: {fault.reason} ({fault.detail}), read as {source.kind}; {advice}"


def _first_fault(source: FileSource, shard: Shard) -> Fault | None:
    """The first fault of a file; None if its first rows hold a document."""
    if source.kind == "jsonl":  # whose lines may be of any length
        shard = replace(shard, content=(_Head(), shard.content[1]))
    first: Fault | None = None
    try:
        with limited_memory(MEMORY), closing(read(source, shard)) as rows:
            for row in islice(rows, ROWS):
                if isinstance(row, Record) or source.kind == "warc":  # a crawl may begin with any number of pictures
                    return None
                first = first or row
    except Unusable as error:
        first = first or Fault(None, error.reason, error.detail)
    return first or Fault(None, EMPTY_SHARD, "there is nothing in it")


class _Head:
    """In place of a file system: it shows the first `BYTES` of each file."""

    def open(self, path: str, mode: str) -> BinaryIO:
        with Path(path).open(mode) as file:
            return io.BytesIO(file.read(BYTES))
