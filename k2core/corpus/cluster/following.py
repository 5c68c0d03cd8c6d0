"""The stage's side of tasks on a cluster: it waits for them, as datatrove's executor for Slurm does not."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from k2core.corpus.cluster.block import DONE, FAILED, Block
from k2core.corpus.workers import Corpus, Work
from k2core.stage import StageError
from k2core.storage.atomic import remove

LOGS = "datatrove"
"""What datatrove writes: logs, and which tasks are complete."""
POLL_S = 2.0
TRIES = 3
"""Launches of tasks after which a shard without a result ends the stage."""


class Launch(Protocol):
    """Tasks on a cluster; those of an earlier attempt are ended when the `with` block begins, these when it ends."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: object) -> None: ...

    def start(self) -> None:
        """Launch the tasks that are not complete."""

    def running(self) -> bool:
        """Whether a task is waiting or at work."""


def follow(work: Work, shards: Sequence[str], corpus: Corpus, folder: Path) -> Iterator[tuple[str, Any]]:
    """`map_shards` on a cluster: yields each shard with its result as it comes.

    Raises:
        StageError: the work on a shard failed, or its task ended `TRIES` times without a result.
    """
    if not shards:
        return
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    block = Block(work, tuple(shards), Path.cwd(), folder)
    left = set(shards)
    with _launch(block, min(corpus.tasks, len(shards)), corpus) as launch:
        for name in (DONE, LOGS):  # the caller asks for what is missing alone, so the tasks are others
            remove(folder / name)
        for _ in range(TRIES):
            remove(folder / FAILED)
            launch.start()
            running = True
            while left and running:
                time.sleep(POLL_S)
                running = launch.running()
                for shard in sorted(left & _names(folder / DONE)):
                    left.discard(shard)
                    yield shard, pickle.loads((folder / DONE / shard).read_bytes())
                for rank in sorted(_names(folder / FAILED)):
                    raise StageError((folder / FAILED / rank).read_text(encoding="utf-8"))
            if not left:
                return
    raise StageError(
        f"{min(left)}: its task ended {TRIES} times without a result, as did those of {len(left) - 1} other shards; "
        f"see {folder / LOGS}"
    )


def _launch(block: Block, tasks: int, corpus: Corpus) -> Launch:
    if corpus.executor == "slurm":
        from k2core.corpus.cluster.slurm import Slurm

        return Slurm(block, tasks, corpus)
    from k2core.corpus.cluster.ray import Ray

    return Ray(block, tasks, corpus)


def _names(folder: Path) -> set[str]:
    """The whole files of a folder."""
    return {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
