"""From a reference to the bytes: `python -m k2core.tracking.reference MD5 FOLDER [--path PATH]`.

MLflow has references to large outputs, not copies: DVC owns bytes. A reference is an md5 as in `dvc.lock`. It resolves
to the workspace's own file if that still has those bytes, else to DVC's cache, else to DVC's remote.
"""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path
from typing import Any

from k2core.recipe import mask
from k2core.storage import StorageError, dvc_md5, publish
from k2core.storage.foreign import one_line


def reference(root: Path, path: str, md5: str, size: int | None) -> dict[str, Any]:
    """What MLflow has in place of the bytes of an output."""
    return {
        "path": path,
        "md5": md5,
        "bytes": size,
        "workspace": str(root.resolve()),
        "dvc_remote": remote_of(root),
        "fetch": f"python -m k2core.tracking.reference {md5} FOLDER --path {path}",
    }


def remote_of(root: Path) -> str:
    """Address of the workspace's default DVC remote, secrets masked; empty if it has none."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    name = config.get("core", "remote", fallback="")
    return mask(config.get(f"'remote \"{name}\"'", "url", fallback=""))


def resolve(root: Path, path: str, md5: str, target: Path) -> Path:
    """The bytes of a reference: `root/path` if it has them, else `target`, which is made from DVC's cache or remote.

    Raises:
        StorageError: they are nowhere.
    """
    here = root / path
    if path and here.exists() and dvc_md5(here) == md5:
        return here
    try:
        _check_out(root, md5, target)
    except Exception as error:  # noqa: BLE001 (DVC's, its remotes' and the operating system's own)
        raise StorageError(
            f"{md5} is neither {root / path} nor in DVC's cache or remote of {root} ({one_line(error)}); "
            "on the machine that made it, `dvc push` copies it to the remote"
        ) from None
    return target


def _check_out(root: Path, md5: str, target: Path) -> None:
    from dvc.repo import Repo
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    info = HashInfo("md5", md5)
    with Repo(str(root)) as repo:
        cache = repo.cache.local
        if not _whole(cache, info):
            repo.cloud.pull([info])
        found = load(cache, info)
        with publish(target) as scratch:
            if not isinstance(found, Tree):
                shutil.copyfile(cache.oid_to_path(md5), scratch)
                return
            for parts, _, entry in found:
                file = scratch.joinpath(*parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(cache.oid_to_path(entry.value), file)


def _whole(cache: Any, info: Any) -> bool:
    """Whether the cache has an object and, of a folder, all its files."""
    from dvc_data.hashfile import load

    if not cache.exists(info.value):
        return False
    found: Any = load(cache, info)
    return not info.isdir or all(cache.exists(entry.value) for _, _, entry in found)


def main(md5: str, folder: Path, path: str = "") -> None:
    """Fetch the bytes that MLflow has a reference to.

    MD5 is as in references.json, with its `.dir` if it is a folder's. FOLDER is where they go; it must not be there.
    """
    import sys

    import typer

    try:
        if folder.exists():
            raise StorageError(f"{folder} is there already; name a new one")
        found = resolve(Path.cwd(), path, md5, folder)
    except StorageError as error:
        print(f"reference: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if found != folder:
        copy = shutil.copytree if found.is_dir() else shutil.copyfile
        copy(found, folder)
    print(folder)


if __name__ == "__main__":
    import typer

    typer.run(main)
