"""The state of a source, in a few words that change when its content does; `ingest` depends on it.

Files on this machine are digested once and remembered by size, time and inode; after that, a file costs a `stat`.
For objects in a bucket the server is asked for their ETags, for a dataset on the Hub for its commit.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.listing import list_files
from k2core.corpus.sources.shard import Shard, is_temporary, one_line
from k2core.stage import Job
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine

State = dict[str, Any]
TRUSTED = "has no version that can be asked for; taken as unchanged"


def state_of(source: FileSource, memory: Path, job: Job) -> State:
    """What identifies the content of `source`; if it is not on this machine, it is also printed.

    Args:
        memory: SQLite file with the digests of files seen before; created if missing.

    Returns:
        `files`, `bytes` and `digest` of files on this machine (names and contents); `objects`, `bytes` and `etags` of
        a bucket's; `commit` of a dataset on the Hub; `trusted` where a server names no version.

    Raises:
        StorageError: there is nothing at `path`, or no access to it.
        ConnectionError: the server cannot be reached.
    """
    if source.kind == "huggingface":
        folder = Path(source.path)
        if not folder.exists():
            return _told(source, {"commit": _commit(source)}, job)
        files = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
        return _digested(files, memory, source, job)
    from fsspec.implementations.local import LocalFileSystem

    shards = list_files(source)
    if not all(isinstance(shard.content[0], LocalFileSystem) for shard in shards):
        return _told(source, _asked(shards), job)
    return _digested([(shard.key, Path(shard.content[1])) for shard in shards], memory, source, job)


def _digested(files: list[tuple[str, Path]], memory: Path, source: FileSource, job: Job) -> State:
    """Number, size and one digest over the names and contents of files."""
    memory.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(memory, timeout=60)) as known:
        known.execute("CREATE TABLE IF NOT EXISTS seen (path TEXT PRIMARY KEY, state TEXT, digest TEXT)")
        found, total, new = [], 0, []
        for name, path in files:
            about = path.stat()
            state = f"{about.st_size} {about.st_mtime_ns} {about.st_ino}"
            total += about.st_size
            row = known.execute("SELECT digest FROM seen WHERE path = ? AND state = ?", (os.path.abspath(path), state))
            entry = [name, next(row, (None,))[0]]
            found.append(entry)
            if entry[1] is None:
                new.append((entry, path, state, about.st_size))
        if new:
            _digest(new, known, source, job)
    return {"files": len(found), "bytes": total, "digest": _fold(found)}


def _digest(
    new: list[tuple[list[Any], Path, str, int]], known: sqlite3.Connection, source: FileSource, job: Job
) -> None:
    """Fill in and remember the digests of the entries in `new`."""
    size = sum(item[3] for item in new)
    job.say(f"{source.name}: {len(new):,} new or changed files, {size / 1e6:,.1f} MB to digest")
    with job.progress(size, "B", what=source.name) as bar:
        for entry, path, state, length in new:
            try:
                with path.open("rb") as file:
                    entry[1] = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            except PermissionError as error:
                entry[1] = str(error.strerror)  # `ingest` sets the file aside and says so
                continue
            known.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (os.path.abspath(path), state, entry[1]))
            known.commit()  # one by one: a killed stage digests nothing twice
            bar.update(length)


def _asked(shards: list[Shard]) -> State:
    """What a server says of its objects: their ETags folded into one."""
    sizes = [shard.state.partition(" ")[0] for shard in shards]
    state: State = {"objects": len(shards), "bytes": sum(int(size) for size in sizes if size.isdigit())}
    nameless = sum(not shard.state.partition(" ")[2].strip() for shard in shards)
    if nameless:
        state["trusted"] = f"{nameless} of {len(shards)} objects: the server {TRUSTED}"
    return state | {"etags": _fold((shard.key, shard.state) for shard in shards)}


def _commit(source: FileSource) -> str:
    """The commit that the Hub has for a dataset now."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return str(HfApi().dataset_info(source.path).sha)
    except Exception as error:
        if is_temporary(error):
            raise ConnectionError(f"ingest.files: {source.name}: {source.path}: {one_line(error)}") from error
        if of_the_machine(error) or not isinstance(error, (HfHubHTTPError, HFValidationError, OSError)):
            raise
        raise StorageError(
            f"ingest.files: {source.name}: path {source.path}: no such folder, and no such dataset on the Hub "
            f"({one_line(error)}); correct `path`"
        ) from None


def _told(source: FileSource, state: State, job: Job) -> State:
    what = ", ".join(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in state.items())
    job.say(f"{source.name}: {source.path}: {what}")
    return state


def _fold(entries: Iterable[Any]) -> str:
    """One digest of names with what each is."""
    folded = hashlib.blake2b(digest_size=16)
    for name, value in entries:
        folded.update(f"{name}\0{value}\n".encode())
    return folded.hexdigest()
