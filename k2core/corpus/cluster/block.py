"""What a task on a cluster does: the work on its shards, in a watched process of its own."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2core.corpus.workers import Work, watched
from k2core.stage import StageError
from k2core.storage import publish, write_text

DONE, FAILED = "done", "failed"
"""Folders with the pickled result of each finished shard, and with why a task failed."""


@dataclass(frozen=True)
class Block:
    """The one step of a datatrove pipeline; task `rank` of `world_size` has each `world_size`-th shard.

    Attributes:
        root: the working folder of the stage, on which the paths in `work` depend.
        folder: shared with the stage; it knows as well which documents killed a process.
    """

    work: Work
    shards: tuple[str, ...]
    root: Path
    folder: Path

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        os.chdir(self.root)
        left = [shard for shard in self.shards[rank::world_size] if not (self.folder / DONE / shard).exists()]
        try:
            for shard, result in watched(self.work, left, 1, self.folder):
                with publish(self.folder / DONE / shard) as scratch:
                    scratch.write_bytes(pickle.dumps(result))
        except StageError as error:
            write_text(self.folder / FAILED / str(rank), str(error))
            raise
