"""Files and folders that other users of the machine must not read, or must not have made."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def private_folder(path: Path) -> Path:
    """`path` as a folder that only this user can enter; it is made where it is missing.

    Raises:
        PermissionError: a link or another user's folder is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    about = path.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise PermissionError(f"{path} is a link or belongs to another user; remove it")
    hide(path)
    if stat.S_IMODE(path.lstat().st_mode) & 0o077:
        raise PermissionError(f"{path} lies on a file system that cannot keep others out")
    return path


def hide(path: Path) -> None:
    """Take all rights to a file or folder from other users, if it is there and this user's."""
    with suppress(FileNotFoundError):
        about = path.stat()
        if about.st_uid == os.geteuid() and about.st_mode & 0o077:
            path.chmod(stat.S_IMODE(about.st_mode) & ~0o077)


def log_folder(root: Path) -> Path:
    """`root/logs`, which holds the output of servers and stages and is private."""
    folder = root / "logs"
    folder.mkdir(exist_ok=True)
    hide(folder)
    return folder
