"""One pipeline run at a time in a workspace: whoever writes its outputs or its recipe holds its lock."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock


@contextmanager
def hold(root: Path, holder: dict[str, str], say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the workspace for one run.

    Args:
        holder: what a person is told of it.
        say: told every minute who holds it, while this run waits for its turn. Without it a run that finds the
            workspace held ends at once.

    Raises:
        SystemExit: another run holds the workspace; the sentence says which.
    """
    from filelock import Timeout

    lock = _lock(root)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=60 if say else 0)
        except Timeout:
            about = _about(_owner(root))
            if not say:
                raise SystemExit(f"{about}; wait for it or cancel it") from None
            say(f"{about}; this run starts when that one has ended")
    owner = _owner_file(root)
    try:
        owner.write_text(json.dumps({"pid": str(os.getpid()), **holder}))
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def held_by_another(root: Path) -> str:
    """A sentence if the workspace is held by a run to which this process does not belong; empty if it is not."""
    import psutil
    from filelock import Timeout

    try:
        with _lock(root).acquire(timeout=0):
            return ""
    except Timeout:
        owner = _owner(root)
    if owner.get("pid") in {str(os.getpid()), *(str(above.pid) for above in psutil.Process().parents())}:
        return ""
    return f"{_about(owner)}; wait for it or cancel it"


def _lock(root: Path) -> FileLock:
    from filelock import FileLock

    (root / "work").mkdir(exist_ok=True)
    return FileLock(root / "work" / "pipeline.lock")


def _owner_file(root: Path) -> Path:
    return root / "work" / "pipeline.json"


def _owner(root: Path) -> dict[str, str]:
    try:
        owner: dict[str, str] = json.loads(_owner_file(root).read_text())
    except (FileNotFoundError, ValueError):  # it has just ended, or is just writing it
        return {}
    return owner


def _about(owner: dict[str, str]) -> str:
    who = ", ".join(f"{key} {value}" for key, value in owner.items()) or "its name is not known yet"
    return f"this workspace is held by another pipeline run ({who})"
