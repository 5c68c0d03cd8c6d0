"""What all readers share: the shard, its records, how it is opened, which faults are temporary.

datatrove's readers log a bad row and go on, or lose what follows it in the shard. Here each fault is kept with its
place and reason, so the loops over rows are ours; fsspec, pyarrow, orjson and warcio read the formats.
"""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from k2core.recipe import did_you_mean
from k2core.storage.disk import LOST, of_the_machine
from k2core.storage.foreign import one_line

LONGEST = 16 * 2**20
"""Most bytes of a line, a record or a text; longer ones are set aside unread."""
MEMORY = 2 * 2**30
"""Bytes of memory that reading a shard may take in each process; a shard that takes more is set aside."""
ROWS, BYTES, SWELLING = 10_000, 2**28, 1000
"""What a file may hold however small it is: rows, and bytes when decompressed. A row more is allowed for each byte that
is stored, and `SWELLING` bytes: no text shrinks to less, and a kilobyte can be made to hold years of work."""
LONGEST_FIELD = 4096
"""Most characters of an id, an origin, a licence and so on."""
_BYTE_ORDER_MARK = "\ufeff"
BAD_UTF8, CORRUPT, VANISHED = "bad UTF-8", "corrupt", "vanished"
EMPTY_SHARD, FORBIDDEN, NO_COLUMN = "empty shard", "access denied", "no such column"
NO_TEXT, NOT_JSON, TOO_LONG, TOO_LARGE = "no text", "not a JSON object", "too long", "too large"
_NAMES, _NAME = 30, 100
"""Columns that a message names at most, and characters of each: a file may hold millions."""
_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_PASSING = {errno.EBUSY, errno.ENETUNREACH} | LOST
"""s3fs translates 500 to EREMOTEIO, 503 and a changed object to EBUSY, codes that it does not know to EIO. A network
mount that is lost while a file is read gives EIO, ESTALE or ENOTCONN."""


@dataclass(frozen=True)
class Shard:
    """A piece of a source that is read whole or not at all.

    Attributes:
        name: its address, for messages and origins.
        key: its name within the source, part of the documents' ids.
        state: changes when its content does (size, and ETag or time).
        content: `(filesystem, path)`, or the rows of a dataset.
        size: bytes as stored; None where nobody says.
    """

    name: str
    key: str
    state: str
    content: Any
    size: int | None = None

    @property
    def most_rows(self) -> float:
        """Rows that it may have."""
        return math.inf if self.size is None else ROWS + self.size

    @property
    def most_bytes(self) -> float:
        """Bytes that it may have when decompressed."""
        return math.inf if self.size is None else BYTES + SWELLING * self.size


@dataclass(frozen=True)
class Record:
    """A text at a row (counted from 1) with what its own columns say of it: id, origin, license and so on."""

    row: int
    text: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """What is set aside: one row, or the whole shard (`row` is None)."""

    row: int | None
    reason: str
    detail: str


class Unusable(Exception):
    """The shard as a whole cannot be used."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@contextmanager
def open_raw(shard: Shard) -> Iterator[Any]:
    """The bytes of a file as stored, seekable.

    A ConnectionError says that a server sent fewer bytes than it was asked for.
    """
    filesystem, path = shard.content
    with filesystem.open(path, "rb") as file:
        if cache := getattr(file, "cache", None):  # of fsspec's files on servers, which take any answer for whole
            cache.fetcher = partial(_all_of, cache.fetcher, shard.name, file.size)
        yield file


def _all_of(fetch: Callable[[int, int], bytes], name: str, size: int, start: int, end: int) -> bytes:
    found, wanted = fetch(start, end), min(end, size) - start
    if len(found) < wanted:
        raise ConnectionError(f"{name}: {len(found):,} of {wanted:,} bytes came from byte {start:,} on")
    return found


@contextmanager
def open_shard(shard: Shard) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if its name ends in .gz, .zst or .bz2.

    Through Arrow, which reads files of several members and detects a torn one (zstandard's reader does neither).
    """
    import pyarrow as pa

    codec = _CODECS.get(PurePosixPath(shard.key).suffix)
    with open_raw(shard) as raw:
        stream: Any = pa.PythonFile(raw, "r")
        if codec:
            stream = _Bounded(pa.CompressedInputStream(stream, codec), shard)
        yield io.BufferedReader(stream, 2**20)


class _Bounded(io.RawIOBase):
    """A decompressed shard, which ends as unusable where it has more than `most_bytes`."""

    def __init__(self, stream: Any, shard: Shard) -> None:
        self.stream, self.shard, self.left = stream, shard, shard.most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = int(self.stream.readinto(buffer))
        self.left -= count
        if self.left < 0:
            raise Unusable(TOO_LARGE, f"its {self.shard.size:,} bytes are more than {self.shard.most_bytes:,} decoded")
        return count


def to_record(row: int, values: Any, columns: Mapping[str, str]) -> Record | Fault:
    """The record in a row's `values`; only `text` and `id` must be there, the rest has its default in the recipe.

    White space and a byte order mark around the text are not part of it.
    """
    if not isinstance(values, dict):
        return Fault(row, NOT_JSON, f"a {type(values).__name__}")
    missing = [columns[name] for name in ("text", "id") if name in columns and columns[name] not in values]
    if missing:
        return Fault(row, NO_COLUMN, no_column(missing, values))
    text = values[columns["text"]]
    text = text.strip().removeprefix(_BYTE_ORDER_MARK).strip() if isinstance(text, str) else text
    if not isinstance(text, str) or not text:
        return Fault(row, NO_TEXT, "blank" if isinstance(text, str) else f"a {type(text).__name__}")
    if len(text) > LONGEST:
        return Fault(row, TOO_LONG, f"{len(text):,} characters; {LONGEST:,} are allowed")
    given = {name: values.get(column) for name, column in columns.items() if name != "text"}
    fields = {name: str(value) for name, value in given.items() if value is not None}
    if long := [columns[name] for name, value in fields.items() if len(value) > LONGEST_FIELD]:
        return Fault(row, TOO_LONG, f"more than {LONGEST_FIELD:,} characters in {', '.join(long)}")
    return Record(row, text, fields)


def no_column(missing: list[str], there: Any) -> str:
    """The missing columns, what they may be meant to be, and the first existing ones, their names cut if long."""
    names = tuple(str(name)[:_NAME] for name in islice(there, _NAMES + 1))
    shown = ", ".join(names[:_NAMES]) + (", …" if len(names) > _NAMES else "")
    return f"no column {', '.join(name + _nearest(name, names) for name in missing)}; it has {shown}"


@lru_cache(maxsize=64)  # a file may lack it in each of a million rows
def _nearest(missing: str, names: tuple[str, ...]) -> str:
    return did_you_mean(missing, names)


def too_large() -> Unusable:
    """The fault of a shard that takes more memory than `MEMORY`."""
    return Unusable(TOO_LARGE, f"to read it takes more than {MEMORY / 2**30:g} GiB of memory")


def too_many_rows(shard: Shard) -> Unusable:
    """The fault of a file with more rows than anybody writes into so few bytes."""
    return Unusable(TOO_LARGE, f"its {shard.size:,} bytes hold more than {shard.most_rows:,} rows")


@contextmanager
def named_faults() -> Iterator[None]:
    """For a block that reads a shard and writes nothing: what libraries raise for an unusable one becomes `Unusable`.

    Faults that may pass become a ConnectionError; those of this machine stay what they are.
    """
    from pyarrow import ArrowException
    from warcio.exceptions import ArchiveLoadFailed

    try:
        with reached():
            yield
    except MemoryError:
        raise too_large() from None
    except (OSError, ValueError, ArrowException, ArchiveLoadFailed) as error:
        if isinstance(error, ConnectionError) or of_the_machine(error):
            raise
        reasons = {FileNotFoundError: VANISHED, PermissionError: FORBIDDEN, UnicodeDecodeError: BAD_UTF8}
        raise Unusable(reasons.get(type(error), CORRUPT), one_line(error)) from None


@contextmanager
def reached() -> Iterator[None]:
    """Faults that may pass become a ConnectionError."""
    try:
        yield
    except Exception as error:
        if is_temporary(error) and not isinstance(error, ConnectionError):
            raise ConnectionError(one_line(error)) from error
        raise


def is_temporary(error: BaseException) -> bool:
    """Whether another try may succeed: a connection that broke, a service that is busy or failing."""
    import aiohttp
    import httpx
    import httpx2  # huggingface_hub's
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    broken = (
        ConnectionError, TimeoutError, aiohttp.ClientError, httpx.TransportError, httpx2.TransportError, NoConnection,
        HTTPClientError,
    )  # fmt: skip
    if isinstance(error, broken) or (isinstance(error, OSError) and error.errno in _PASSING):
        return True
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 429 or status >= 500:
        return True
    return error.__cause__ is not None and is_temporary(error.__cause__)
