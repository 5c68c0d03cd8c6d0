"""Checks what the sources give, as far as the recipe tells, and that there is something for them to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from k2core.corpus.documents import DOMAINS
from k2core.corpus.sources.shard import is_temporary, list_files
from k2core.storage import StorageError
from stages.ingest import SOURCES, Params

BUILT_IN = {name: source.DOMAIN for name, source in SOURCES.items()}


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


def files_that_there_are(ingest: Params) -> Iterator[str]:
    """Paths on this machine; the stage `sources` asks for what is elsewhere."""
    for source in ingest.files:
        if source.limit == 0 or "://" in source.path:
            continue
        if source.kind != "huggingface":
            try:
                list_files(source)
            except StorageError as error:
                yield str(error)
            except OSError as error:
                if not is_temporary(error):  # which the stage `sources` would try again
                    raise
        elif source.path.startswith(("/", ".")) and not Path(source.path).exists():  # a dataset's name does not
            yield f"ingest.files: {source.name}: there is no folder {source.path}; correct `path`"
