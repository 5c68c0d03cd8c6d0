"""Content digests equal to DVC's, so that MLflow datasets and `dvc.lock` name the same bytes the same way."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

DIRECTORY_SUFFIX = ".dir"


def digest_64(text: str) -> int:
    """64 bits that stand for a text where many are compared in memory."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def dvc_md5(path: Path) -> str:
    """The md5 that `dvc.lock` records for a file or a folder.

    A folder's digest is the md5 of the JSON list of its files' ``{"md5", "relpath"}``, sorted by relpath, with
    the suffix ``.dir`` (dvc-data, `HashFile` trees).

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    path = Path(path)
    if path.is_file():
        return _file_md5(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; run the stage that makes it (`dvc repro`)")
    entries = [
        {"md5": _file_md5(file), "relpath": file.relative_to(path).as_posix()}
        for file in path.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    ]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode()).hexdigest() + DIRECTORY_SUFFIX


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
