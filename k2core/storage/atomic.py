"""Atomic publication: a reader sees a whole file or folder, or none (design rule 5)."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2core.storage.disk import FULL
from k2core.storage.foreign import characters


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Yield a scratch path beside `target`; rename it to `target` when the block ends well.

    The block may create a file or a folder at the scratch path. What an earlier, killed attempt left at the
    scratch path is removed first. An existing `target` is replaced. Modes follow the umask, whatever the writers did
    (safetensors makes private files). The error of a full disk names `target`.

    Raises:
        FileNotFoundError: the block ended without creating anything.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.partial")
    remove(scratch)
    try:
        yield scratch
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(target)
        raise
    if not scratch.exists():
        raise FileNotFoundError(f"{target}: nothing was written, so nothing can be published")
    _follow_umask(scratch)
    remove(target)
    os.replace(scratch, target)


def _follow_umask(path: Path) -> None:
    """Give a file, or a folder and all in it, the modes of new ones.

    The modes of a new file tell the umask; asking for it would change it for a moment, in all threads.
    """
    probe = path.with_name(f"{path.name}.mode")
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for entry in [path, *path.rglob("*")]:
        if entry.is_symlink():
            continue
        now = stat.S_IMODE(entry.stat().st_mode)
        wanted = now & 0o7000 | mode | ((mode & 0o444) >> 2 if entry.is_dir() else 0)
        if now != wanted:
            entry.chmod(wanted)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically (UTF-8), creating parent folders; half a surrogate pair becomes U+FFFD."""
    with publish(path) as scratch:
        scratch.write_text(characters(text), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; keys keep their order.

    Raises:
        ValueError: `value` contains NaN or infinity, which no JSON reader is bound to accept.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
