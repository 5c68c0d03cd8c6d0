"""Atomic publication: a reader sees a whole file or folder, or none (design rule 5)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Give a scratch path beside `target`; rename it to `target` when the block ends well.

    The block may create a file or a folder at the scratch path. What an earlier, killed attempt left at the
    scratch path is removed first. An existing `target` is replaced.

    Raises:
        FileNotFoundError: the block ended without creating anything.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.partial")
    remove(scratch)
    yield scratch
    if not scratch.exists():
        raise FileNotFoundError(f"{target}: nothing was written, so nothing can be published")
    remove(target)
    os.replace(scratch, target)


def remove(path: Path) -> None:
    """Delete a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically (UTF-8), creating parent folders."""
    with publish(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; keys keep their order.

    Raises:
        ValueError: `value` contains NaN or infinity, which no JSON reader is bound to accept.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
