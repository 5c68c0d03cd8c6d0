"""Faults of the machine: a full, broken or lost disk, too few handles. They say nothing about what a file holds.

Whoever turns the errors of a reader into "this file is unusable" asks `of_the_machine` first: a lost mount must not
become a smaller corpus, nor a full disk the advice to delete a sound file.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from pathlib import Path

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))
"""Faults only of writing."""
LOST = frozenset(
    getattr(errno, name, errno.EIO)
    for name in ("EIO", "EREMOTEIO", "ESTALE", "ENODEV", "ENXIO", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ETIMEDOUT")
)
"""A disk that breaks, a network mount or a device that is gone."""
SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN))
"""Files, memory or processes that the machine does not grant."""
_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_NOMEM: errno.ENOMEM,
}
_TOLD = re.compile(r"\(os error (\d+)\)|\[errno (\d+)\]")
"""How Rust's libraries (safetensors, tokenizers) and Arrow report it, in exceptions of their own."""
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""How NumPy says that an array was not written whole: it asks nobody why, and a full disk is what there is."""


def of_the_machine(error: BaseException) -> bool:
    """Whether the disk, the mount or the machine is at fault, rather than a file."""
    return _number(error) in FULL | LOST | SHORT


def sentence(error: BaseException) -> str:
    """What cannot be read or written, why, and what to do; "" if the machine is not at fault."""
    number = _number(error)
    place = getattr(error, "filename", None) or f"{Path.cwd()} or what is mounted there"
    why = os.strerror(number)
    if number in FULL:
        return f"cannot write {place}: {why}; make room or mend the disk and run again, finished work is kept"
    if number in LOST:
        return f"cannot reach {place}: {why}; bring the disk or the mount back and run again, finished work is kept"
    if number in SHORT:
        return f"this machine refuses what the stage needs at {place}: {why}; free some of it and run again"
    if number in (errno.EACCES, errno.EPERM) and (_is_sqlite(error) or getattr(error, "filename", None)):
        return f"cannot open {place}: {why}; give this user access and run again"
    return ""


def _number(error: BaseException) -> int:
    """The `errno` of a fault; 0 if it has none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if _is_sqlite(error):
        return _SQLITE.get(error.sqlite_errorcode & 0xFF, 0)  # type: ignore[attr-defined]
    if isinstance(error, OSError) and _SHORT_WRITE.fullmatch(str(error)):
        return errno.ENOSPC
    told = _TOLD.search(str(error))
    return int(told[1] or told[2]) if told else 0


def _is_sqlite(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and hasattr(error, "sqlite_errorcode")
