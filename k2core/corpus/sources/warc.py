"""WARC archives: HTML responses, whose text Trafilatura extracts, and the plain text of WET files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k2core.corpus.sources.shard import CORRUPT, LONGEST, NO_TEXT, TOO_LONG, Fault, Record, Shard, Unusable, open_shard

SECONDS = 60.0
"""For one page's text. Most take milliseconds; the limit is wide, so that a busy machine does not change what comes."""
NO_PAGE, NOT_EXTRACTED = "no web page", "not extracted"
_PAGES = "response", "conversion"


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The text or the fault of every page; other records (requests, metadata) are no pages and passed over.

    `id` is the record's, `origin` the page's address. Trafilatura runs in a process of its own, which a page can
    hang or kill, and without its memory of earlier paragraphs, so that a text depends on its page alone.

    Raises:
        Unusable: the archive breaks off.
    """
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.extractors.base import ExtractorSandbox
    from loguru import logger
    from warcio.archiveiterator import ArchiveIterator

    logger.disable("datatrove")
    extractor = Trafilatura(favour_precision=True, deduplicate=False)
    with open_shard(shard) as file, ExtractorSandbox(timeout=SECONDS) as sandbox:
        for row, record in enumerate(ArchiveIterator(file), 1):
            if record.rec_type in _PAGES:
                yield _read_page(row, record, extractor, sandbox)
            _check_end(row, record)


def _read_page(row: int, record: Any, extractor: Any, sandbox: Any) -> Record | Fault:
    from datatrove.pipeline.readers.warc import process_record

    if (record.length or 0) > LONGEST:
        return Fault(row, TOO_LONG, f"{record.length:,} bytes; {LONGEST:,} are allowed")
    try:
        page = process_record(record)
    except KeyError as error:
        return Fault(row, NO_PAGE, f"the record has no header {error.args[0]}")
    if page is None:
        kind = record.rec_headers.get_header("WARC-Identified-Payload-Type") or "unnamed content"
        return Fault(row, NO_PAGE, f"{kind} that is no HTML, or in no known encoding")
    text = page["text"]
    if record.rec_type == "response":
        try:
            text = sandbox.process_document(text, extractor.extract)
        except (TimeoutError, EOFError) as error:
            why = f"no end within {SECONDS:g} s" if isinstance(error, TimeoutError) else "the extractor died"
            return Fault(row, NOT_EXTRACTED, f"{page['url']}: {why}")
    if not text or not text.strip():
        return Fault(row, NO_TEXT, page["url"])
    key = (page["id"] or "").strip("<>").removeprefix("urn:uuid:")
    return Record(row, text, {"id": key, "origin": page["url"]})


def _check_end(row: int, record: Any) -> None:
    """Read what is left of a record; warcio takes the end of the file for the end of the record."""
    while record.raw_stream.read(2**16):
        pass
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise Unusable(CORRUPT, f"the archive ends within record {row}")
