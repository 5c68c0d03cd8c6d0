"""Which recorder a process talks to: one for each invocation of the pipeline in a workspace."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

INVOCATION = "K2_INVOCATION"
"""Environment variable by which a flow tells its stages that they belong to it: its process id."""

RECORDS = "K2_RECORDS"
"""Environment variable with the folder whose recorder a stage talks to, where it is not the stage's own: DVC removes an
experiment's folder as soon as it has ended."""


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


def socket_path(root: Path, pid: int) -> Path:
    """Where the recorder of process `pid` in workspace `root` listens (socket paths are limited to 108 bytes)."""
    import psutil

    try:
        born = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        born = 0.0
    name = hashlib.sha256(f"{root.resolve()}|{pid}|{born}".encode()).hexdigest()[:20]
    return Path(tempfile.gettempdir()) / f"k2-{name}.sock"
