"""JSON Lines: one document per line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from k2core.corpus.sources.shard import (
    BAD_UTF8,
    LONGEST,
    NOT_JSON,
    TOO_LONG,
    Fault,
    Record,
    Shard,
    one_line,
    open_shard,
    to_record,
)


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The record or the fault of every line that is not blank; memory holds at most `LONGEST` bytes of a line."""
    import orjson

    with open_shard(shard) as file:
        for row, line in enumerate(_lines(file), 1):
            if line is None:
                yield Fault(row, TOO_LONG, f"more than {LONGEST:,} bytes")
            elif line.strip():
                try:
                    yield to_record(row, orjson.loads(line.removeprefix(codecs.BOM_UTF8)), columns)
                except orjson.JSONDecodeError as error:
                    yield _fault(row, line, error)


def _fault(row: int, line: bytes, error: ValueError) -> Fault:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        return Fault(row, BAD_UTF8, one_line(wrong))
    return Fault(row, NOT_JSON, one_line(error))


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Every line; None in place of one that is too long."""
    while line := file.readline(LONGEST + 1):
        if len(line) <= LONGEST:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST)
        yield None
