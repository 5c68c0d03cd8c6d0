"""WARC archives: HTML responses, whose text Trafilatura extracts, and the plain text of WET files."""

from __future__ import annotations

import io
import math
import os
import signal
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from k2core.corpus.sources.shard import (
    CORRUPT,
    LONGEST,
    TOO_LARGE,
    TOO_LONG,
    Fault,
    Record,
    Shard,
    Unusable,
    open_shard,
    to_record,
)
from k2core.machine.descendants import end_with_parent

SECONDS = 60.0
"""For one page's text. Most take milliseconds; the limit is wide, so a busy machine does not change the result."""
LONGEST_PAGE = 5 * 2**20
"""Most bytes of a decoded page: Common Crawl cuts longer ones."""
NO_PAGE, NOT_EXTRACTED = "no web page", "not extracted"
_PAGES = "response", "conversion"
_COLUMNS = {name: name for name in ("text", "id", "origin", "date")}
_LONGEST_HEADER = 2**18
_BLOCK = 2**14
_WINDOWS = {"gzip": (16 + zlib.MAX_WBITS,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}
"""zlib's window sizes by encoding, in the order tried: content sent as deflate often lacks its header."""


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The text or the fault of every page; other records (requests, metadata) are skipped.

    `id` is the record's, `origin` the page's address, `date` when it was fetched. Trafilatura runs in a process of its
    own, because a page can hang or kill it, and without its memory of earlier paragraphs, so a text depends on its page
    alone.

    Raises:
        Unusable: the archive breaks off.
    """
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.extractors.base import ExtractorSandbox
    from loguru import logger
    from warcio.archiveiterator import ArchiveIterator

    logger.disable("datatrove")
    extractor = _Extractor(Trafilatura(favour_precision=True, deduplicate=False))
    with open_shard(shard) as file, ExtractorSandbox(timeout=SECONDS) as sandbox:
        guarded = _Guarded(file)
        archive = ArchiveIterator(guarded)
        headers = archive.loader.load_http_headers  # reads the address's scheme, even where there is no address
        archive.loader.load_http_headers = lambda kind, uri, *rest: headers(kind, uri or "", *rest)
        for row, record in enumerate(archive, 1):
            guarded.left = math.inf
            if record.rec_type in _PAGES:
                yield _read_page(row, record, extractor, sandbox)
            _check_end(row, record)
            guarded.left = _LONGEST_HEADER


class _Guarded:
    """A file that gives at most `left` more bytes: warcio reads a header to its end, however far that is."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left: float = _LONGEST_HEADER

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise Unusable(CORRUPT, f"a header of more than {_LONGEST_HEADER:,} bytes")
        return content


class _Extractor:
    """Trafilatura's `extract`; returns the error where a page takes more memory than there is.

    datatrove's process for it would wait without end when its parent is killed: it holds both ends of the pipe.
    """

    def __init__(self, trafilatura: Any) -> None:
        self.trafilatura, self.reader = trafilatura, os.getpid()

    def __call__(self, text: str) -> str | MemoryError:
        if os.getpid() != self.reader:
            end_with_parent(signal.SIGKILL)
            if os.getppid() != self.reader:  # killed just before
                os._exit(1)
        try:
            return self.trafilatura.extract(text)
        except MemoryError:
            return MemoryError()


def _read_page(row: int, record: Any, extractor: Any, sandbox: Any) -> Record | Fault:
    from datatrove.pipeline.readers.warc import process_record

    longest = LONGEST_PAGE if record.rec_type == "response" else LONGEST
    if record.length is None:
        return Fault(row, NO_PAGE, "the record has no header Content-Length")
    if record.length > LONGEST:
        return Fault(row, TOO_LONG, f"{record.length:,} bytes; {LONGEST:,} are allowed")
    record.content_stream = lambda: io.BytesIO(_decoded(record, longest))
    try:
        page = process_record(record)
    except KeyError as error:
        return Fault(row, NO_PAGE, f"the record has no header {error.args[0]}")
    except OverflowError:
        return Fault(row, TOO_LONG, f"more than {longest:,} bytes when decoded")
    if page is None:
        kind = record.rec_headers.get_header("WARC-Identified-Payload-Type") or "unnamed content"
        return Fault(row, NO_PAGE, f"{kind} that is no HTML, or in no known encoding")
    text = page["text"]
    if record.rec_type == "response":
        try:
            text = sandbox.process_document(text, extractor)
        except MemoryError:
            return Fault(row, TOO_LARGE, f"{page['url']}: its text takes too much memory")
        except (TimeoutError, EOFError) as error:
            why = f"no end within {SECONDS:g} s" if isinstance(error, TimeoutError) else "the extractor died"
            return Fault(row, NOT_EXTRACTED, f"{page['url']}: {why}")
    key = (page["id"] or "").strip("<>").removeprefix("urn:uuid:")
    return to_record(row, {"text": text or "", "id": key, "origin": page["url"], "date": page["date"]}, _COLUMNS)


def _decoded(record: Any, longest: int) -> bytes:
    """The content of a record of at most `LONGEST` bytes, without the encodings that HTTP put around it.

    warcio's own stream decodes without a limit.

    Raises:
        OverflowError: it decodes to more than `longest` bytes.
    """
    from warcio.bufferedreaders import ChunkedDataReader

    headers = record.http_headers
    stream = record.raw_stream
    if headers and headers.get_header("transfer-encoding") == "chunked":
        stream = ChunkedDataReader(stream)
    content = stream.read(LONGEST)
    encoding = ((headers and headers.get_header("content-encoding")) or "").lower()
    for window in _WINDOWS.get(encoding, ()):
        if decoded := _inflated(content, window, longest):
            content = decoded
            break
    if len(content) > longest:
        raise OverflowError
    return content


def _inflated(content: bytes, window: int, longest: int) -> bytes:
    """`content` as zlib decodes it up to a torn place, at most one byte more than `longest`."""
    decoder, parts, left = zlib.decompressobj(window), [], longest + 1
    for start in range(0, len(content), _BLOCK):
        try:
            parts.append(decoder.decompress(content[start : start + _BLOCK], left))
        except zlib.error:
            break
        left -= len(parts[-1])
        if not left or decoder.eof:
            break
    return b"".join(parts)


def _check_end(row: int, record: Any) -> None:
    """Read the rest of a record; warcio takes the end of the file for the end of the record."""
    while record.raw_stream.read(2**16):
        pass
    if getattr(record.raw_stream, "limit", 0) > 0:
        raise Unusable(CORRUPT, f"the archive ends within record {row}")
