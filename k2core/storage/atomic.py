"""Atomic publication: a reader sees a whole file or folder, or none (design rule 5)."""

from __future__ import annotations

import json
import os
import secrets
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
    """Yield a scratch path beside `target`; rename it to `target` when the block ends well, and the disk has it.

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
    for entry in (*scratch.rglob("*"), scratch):
        to_disk(entry)  # else a power cut can leave the name and no content
    remove(target)
    os.replace(scratch, target)
    to_disk(target.parent)


def to_disk(path: Path) -> None:
    """Have the kernel write a file or folder out."""
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link_files(source: Path, target: Path) -> None:
    """Give the files of folder `source` a second name in folder `target`; where that cannot be, copy them."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        try:
            os.link(file, target / file.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, target / file.name)


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
    """Delete a file or a folder if it is there, however deep it is."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except (RecursionError, OSError):  # it calls itself and opens a folder for each level; and some forbid to be read
        _remove_level_by_level(path)


def _remove_level_by_level(folder: Path) -> None:
    """Delete a folder; what lies deeper is moved up to its first level, so that no path gets long."""
    folder.chmod(0o700)
    while levels := [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]:
        for level in levels:
            os.chmod(level, 0o700)
            for entry in list(os.scandir(level)):
                if entry.is_dir(follow_symlinks=False):
                    os.rename(entry.path, folder / secrets.token_hex(16))
                else:
                    os.unlink(entry.path)
            os.rmdir(level)
    shutil.rmtree(folder)


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
