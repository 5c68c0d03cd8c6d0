"""Plain text: one document per file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from k2core.corpus.sources.shard import (
    BAD_UTF8,
    LONGEST,
    TOO_LONG,
    Fault,
    Record,
    Shard,
    one_line,
    open_shard,
    to_record,
)


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The text of the file, or why it is none; nothing for an empty one."""
    with open_shard(shard) as file:
        content = file.read(LONGEST + 1)
    if len(content) > LONGEST:
        yield Fault(1, TOO_LONG, f"more than {LONGEST:,} bytes")
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        yield Fault(1, BAD_UTF8, one_line(error))
        return
    if text:
        yield to_record(1, {columns["text"]: text}, columns)
