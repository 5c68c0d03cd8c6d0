"""What the stages took, for the report to show: `work/times.js`. Times are no output: equal runs have equal outputs."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from k2core.storage import write_text

PREFIX = "window.K2_TIMES = "
"""The page loads the file as a script: a browser lets a page from the disk read no other file beside it."""


def note(work: Path, stage: str, seconds: float, run: str) -> None:
    """Write down what a stage took, in the folder `work`.

    Args:
        run: which run of the pipeline this was.
    """
    path = work / "times.js"
    with (work / "times.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            times = json.loads(path.read_text().removeprefix(PREFIX))
        except (FileNotFoundError, ValueError):
            times = {}
        times[stage] = {"seconds": round(seconds, 1), "run": run}
        write_text(path, PREFIX + json.dumps(times) + "\n")
