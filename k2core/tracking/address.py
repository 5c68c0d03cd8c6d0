"""Which recorder a process talks to: one for each invocation of the pipeline in a workspace."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from k2core.storage.private import private_folder

INVOCATION = "K2_INVOCATION"
"""Environment variable by which a flow tells its stages that they belong to it: its process id."""

RECORDS = "K2_RECORDS"
"""Environment variable with the folder whose recorder a stage talks to, where it is not the stage's own: DVC removes an
experiment's folder as soon as it has ended."""

MOST = 107 - len("/0123456789abcdef0123.sock")
"""Most bytes in the name of a folder of sockets (`sun_path` of unix(7) has 108)."""


def invocation_pid() -> int:
    """The process whose life is the pipeline run: the flow, else the outermost `dvc` above us, else ourselves."""
    import psutil

    if os.environ.get(INVOCATION, "").isdigit() and psutil.pid_exists(int(os.environ[INVOCATION])):
        return int(os.environ[INVOCATION])
    pid = os.getpid()
    for process in psutil.Process().parents():
        try:
            if any(Path(word).name == "dvc" for word in process.cmdline()[:3]):
                pid = process.pid
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return pid


def lives(pid: int, born: float) -> bool:
    """Whether process `pid` is still the one that began at `born` (psutil's `create_time`): numbers are used again."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() == born)
    except psutil.NoSuchProcess:
        return False


def socket_path(root: Path, pid: int) -> Path:
    """Where the recorder of process `pid` in workspace `root` listens.

    Raises:
        OSError: there is no place where this user alone could listen.
    """
    import psutil

    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        born = 0.0
    name = hashlib.sha256(f"{root.resolve()}|{pid}|{born}".encode()).hexdigest()[:20]
    return _folder(root) / f"{name}.sock"


def _folder(root: Path) -> Path:
    """A folder for sockets that is this user's alone: in the system's temporary folder, else in `root/work`."""
    faults = []
    for place in (lambda: Path(tempfile.gettempdir()), lambda: Path(os.path.relpath(root / "work"))):
        try:
            folder = private_folder(place() / f"k2-{os.geteuid()}")
        except OSError as error:
            faults.append(str(error))
            continue
        if len(os.fsencode(folder)) <= MOST:
            return folder
        faults.append(f"{folder} is too long a name for a socket")
    raise OSError("; ".join(faults))
