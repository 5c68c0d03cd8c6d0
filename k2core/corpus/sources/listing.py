"""Which files a source has: those that a pattern names, or those of a list, as Common Crawl publishes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.shard import Shard, is_temporary
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine
from k2core.storage.foreign import one_line, printable

LISTS = (".paths", ".paths.gz")
"""Ends of the names of lists: one file a line."""
_SHOWN = 100
"""Characters of a line of a list that a message shows."""


def is_list(source: FileSource) -> bool:
    """Whether `path` names a list of files instead of the files."""
    return source.kind != "huggingface" and source.path.endswith(LISTS)


def list_files(source: FileSource) -> list[Shard]:
    """The files that `path` names, in order of their names, or those of the list that it names, in the list's order.

    Endpoint and credentials of a bucket come from the AWS SDK's settings.

    Raises:
        StorageError: there is none, or they cannot be listed.
        ConnectionError: their server cannot be reached now.
    """
    from fsspec.core import url_to_fs

    with _listing(source):
        filesystem, pattern = url_to_fs(source.path, skip_instance_cache=True, use_listings_cache=False)
        if is_list(source):
            return _listed(source, filesystem, pattern)
        found = filesystem.glob(pattern, detail=True)
    files = {place: info for place, info in sorted(found.items()) if info["type"] == "file"}
    if not files:
        raise StorageError(f"ingest.files: {source.name}: {_nothing(source.path, found, filesystem)}")
    fixed = re.split(r"[*?\[]", pattern)[0]
    root = fixed[: fixed.rfind("/") + 1]
    return [_shard(filesystem, place, info, place.removeprefix(root), source.path) for place, info in files.items()]


@contextmanager
def _listing(source: FileSource) -> Iterator[None]:
    """What a file system raises for an address or access that is wrong, or for a server that is away, as a sentence."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        from botocore.exceptions import BotoCoreError  # here: its import takes longer than listing a folder

        if is_temporary(error):
            raise ConnectionError(f"ingest.files: {source.name}: {source.path}: {one_line(error)}") from error
        if of_the_machine(error) or not isinstance(error, (BotoCoreError, OSError, ValueError, ImportError)):
            raise
        raise StorageError(
            f"ingest.files: {source.name}: {source.path} cannot be listed ({one_line(error)}); check address and access"
        ) from None


def _nothing(path: str, found: dict[str, Any], filesystem: Any) -> str:
    """Why `path` names no file."""
    folders = [place for place, info in found.items() if info["type"] == "directory"]
    if not folders:
        return f"no file is named {path} or fits that pattern; correct `path`"
    if path.endswith("**") or not filesystem.ls(folders[0], detail=False):
        return f"there is no file in {path}; put files there or correct `path`"
    return f"path {path} is a folder; say which files in it, e.g. {path.rstrip(chr(47))}/**"


def _listed(source: FileSource, filesystem: Any, place: str) -> list[Shard]:
    """The files of a list. A folder that holds some of them is asked for once, where its server can list it."""
    from fsspec.core import url_to_fs

    with filesystem.open(place, "rb", compression="infer") as file:
        lines = list(dict.fromkeys(filter(None, map(str.strip, file.read().decode("utf-8").splitlines()))))
    systems, folders = {_server(source.path): filesystem}, dict[str, dict[str, Any]]()
    shards, missing = [], []
    for line in lines:
        address = line if "://" in line or os.path.isabs(line) else f"{_root(source.path)}{line}"
        server = _server(address)
        if server not in systems:
            if _server(source.path):  # whoever writes into a bucket must not reach this machine's files
                raise StorageError(_wrong(source, f"{printable(line)[:_SHOWN]} is on another server than the list"))
            systems[server] = url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)[0]
        path = systems[server]._strip_protocol(address)
        if info := _info(systems[server], path, folders):
            shards.append(_shard(systems[server], path, info, line.partition("://")[2] or line, address))
        else:
            missing.append(printable(line)[:_SHOWN])
    if missing:
        raise StorageError(_wrong(source, f"{len(missing)} of {len(lines)} files missing, the first is {missing[0]}"))
    if not shards:
        raise StorageError(_wrong(source, "it is empty"))
    return shards


def _wrong(source: FileSource, why: str) -> str:
    return f"ingest.files: {source.name}: the list {source.path}: {why}; put a path or an address on each line"


def _server(address: str) -> str:
    """Whom to ask for an address: `s3` for all buckets, scheme and host of other servers, empty for this machine."""
    parts = urlsplit(address)
    if parts.scheme in ("", "file", "local"):
        return ""
    return "s3" if parts.scheme in ("s3", "s3a") else f"{parts.scheme}://{parts.netloc}"


def _root(path: str) -> str:
    """What the paths in a list are below: its bucket or server, as in Common Crawl's, or its folder on this machine."""
    parts = urlsplit(path)
    return f"{parts.scheme}://{parts.netloc}/" if _server(path) else path[: path.rfind("/") + 1]


def _info(filesystem: Any, path: str, folders: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """What is known of a file; None if there is none. `folders` keeps what was found in its folder."""
    try:
        if path.startswith(("http://", "https://")):  # a web server lists no folder
            return dict(filesystem.info(path))
        folder = filesystem._parent(path)
        if folder not in folders:
            folders[folder] = {}
            folders[folder] = {entry["name"]: entry for entry in filesystem.ls(folder, detail=True)}
        return folders[folder].get(path)
    except FileNotFoundError:
        return None


def _shard(filesystem: Any, place: str, info: dict[str, Any], key: str, path: str) -> Shard:
    """The file at `place`, which the recipe or a list calls `path`, or names by a pattern."""
    if "://" in path:
        name = filesystem.unstrip_protocol(place)
    else:
        name = place if os.path.isabs(path) else os.path.relpath(place)
    return Shard(
        name=printable(name),
        key=key.encode("utf-8", "backslashreplace").decode(),  # Python keeps other bytes as lone surrogates
        state=f"{info['size']} {info.get('ETag') or info.get('mtime', '')}",
        content=(filesystem, place),
        size=info["size"],
    )
