"""Work on shards that ends well or badly; a module of its own, which a task's processes import quickly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from k2core.corpus.workers import Watch


def made(shard: str, watch: Watch) -> str:
    """Each shard leaves a file for each time that it was worked on."""
    Path("made").mkdir(exist_ok=True)
    (Path("made") / f"{shard}-{times(shard)}").touch()
    return shard.upper()


def times(shard: str) -> int:
    return len(list(Path("made").glob(f"{shard}-*")))


def lost_once(shard: str, watch: Watch) -> str:
    """The task of shard two is lost with its node, once."""
    result = made(shard, watch)
    if shard == "two" and times("two") == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return result


def bad(shard: str, watch: Watch) -> list[str]:
    """Document a of shard two kills its process, document b of shard three is faulty."""
    done = []
    for id in ("a", "b"):
        if not watch.kills(id):
            watch.at(id)
            if (shard, id) == ("two", "a"):
                os.kill(os.getpid(), signal.SIGKILL)
            if (shard, id) == ("three", "b"):
                raise ZeroDivisionError("a share of nothing")
            done.append(id)
    return done


def slow(shard: str, watch: Watch) -> str:
    if shard != "one":
        time.sleep(120)
    return made(shard, watch)
