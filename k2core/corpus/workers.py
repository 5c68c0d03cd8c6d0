"""Work on the shards of the corpus in several processes at once, each with a shard; here, or by `cluster` elsewhere.

A document can kill a process: a fault in a library's C code, or memory that it asks for. The shard is then done again.
A document that was being worked on at two deaths is set aside, and the others of its shard are kept.

The pool of processes of datatrove's LocalPipelineExecutor is Python's `Pool`, which waits without end for the task of a
process that was killed (bpo-22393); here each process is watched.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import StageError
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine

TRIES = 2
"""Deaths at the same document, or at none, after which the shard is not simply done again."""
DEATHS = 10
"""Deaths of one shard's processes that end the stage: then it is not the documents, but the machine's memory."""


class Corpus(Section):
    """Section `corpus`: what works on the corpus's shards. No output depends on it."""

    TRACKED: ClassVar[bool] = False

    executor: Literal["local", "slurm", "ray"] = Field(
        default="local",
        description="where: processes of this machine, an array of Slurm, a Ray cluster",
    )
    workers: int = Field(
        ge=1,
        description="shards of the corpus that are worked on at once, each in a process of its own; 1 on this machine: "
        "the stage's own",
    )
    tasks: int = Field(default=1000, ge=1, description="slurm, ray: tasks that the shards are dealt to, at most")
    memory_gb: int = Field(default=8, ge=1, description="slurm, ray: memory of a task")
    time: str = Field(default="24:00:00", description="slurm: time limit of a task")
    partition: str = Field(default="cpu", description="slurm: partition")
    sbatch: dict[str, str] = Field(default={}, description="slurm: further options of sbatch, e.g. {account: k2}")


class Watch:
    """Which document of a shard is being worked on, in a file that a killed process leaves behind.

    Args:
        folder: where the files of all shards are; it stays between two attempts of a stage.
    """

    def __init__(self, folder: Path, shard: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._now, self._past = folder / f"{shard}.now", folder / f"{shard}.deaths"
        self._file = -1
        self.deaths = Counter(self._past.read_text(encoding="utf-8").splitlines() if self._past.exists() else ())

    def __enter__(self) -> Self:
        self._file = os.open(self._now, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def at(self, id: str) -> None:
        """The document `id` is next; empty: what follows is not the work on one document."""
        os.pwrite(self._file, f"{_line(id)}\n".encode(), 0)

    def kills(self, id: str) -> bool:
        """Whether the document is to be set aside."""
        return self.deaths[_line(id)] >= TRIES

    @property
    def now(self) -> str:
        """The document that is, or was, being worked on."""
        line = self._now.read_bytes().partition(b"\n")[0] if self._now.exists() else b""
        return line.decode()  # what follows is the rest of a longer id, which may begin within a character

    def died(self) -> str:
        """Count a death at the document that was being worked on, which is returned; empty: at none."""
        id = self.now
        self.deaths[id] += 1
        with self._past.open("a", encoding="utf-8") as file:
            file.write(f"{id}\n")
        return id


def _line(id: str) -> str:
    """An id without the ends of lines that the files of a `Watch` are split at."""
    return " ".join(id.splitlines())


Work = Callable[[str, Watch], Any]


def map_shards(work: Work, shards: Sequence[str], corpus: Corpus, folder: Path) -> Iterator[tuple[str, Any]]:
    """Do `work(shard, watch)` for each of `shards`; yields each shard with the result, in the order in which they end.

    With several workers or on a cluster, `work` and its results must be picklable. What does it ends with this process.

    Args:
        folder: where it is kept which documents killed a process.

    Raises:
        StageError: the work on a shard failed in another process, or its processes keep dying; the shard is named.
    """
    if corpus.executor != "local":
        from k2core.corpus.cluster.following import follow

        yield from follow(work, shards, corpus, folder)
    elif corpus.workers > 1:
        yield from watched(work, shards, corpus.workers, folder)
    else:
        for shard in shards:
            with Watch(folder, shard) as watch:
                watch.at("")
                try:
                    result = work(shard, watch)
                except (StageError, StorageError):
                    raise
                except Exception:
                    print(f"{shard}, document {watch.now or 'none'}:", file=sys.stderr, flush=True)
                    raise
            yield shard, result


def watched(work: Work, shards: Sequence[str], workers: int, folder: Path) -> Iterator[tuple[str, Any]]:
    """`map_shards` by processes of this machine, at most so many at once.

    A process does shard after shard, since to start it and to import what `work` needs can take longer than a shard.
    One that was killed is replaced.
    """
    waiting, running = deque(shards), dict[Connection, tuple[str, _Worker]]()
    idle = [_Worker(work, folder) for _ in range(min(workers, len(shards)))]
    try:
        while waiting or running:
            while waiting and idle:
                worker = idle.pop()
                running[worker.asked] = waiting.popleft(), worker
                worker.start(running[worker.asked][0])
            for ready in wait([*running]):
                assert isinstance(ready, Connection)
                shard, worker = running.pop(ready)
                answer = worker.answer()
                if answer is None:
                    _count_death(Watch(folder, shard), shard, worker.process.exitcode)
                    waiting.appendleft(shard)
                    worker = _Worker(work, folder)
                idle.append(worker)
                if isinstance(answer, _Failed):
                    raise StageError(str(answer))
                if isinstance(answer, OSError):
                    raise answer
                if answer is not None:
                    yield shard, answer[0]
    finally:
        for worker in (*idle, *(worker for _, worker in running.values())):
            worker.end()


class _Failed(str):
    """Why the work on a shard failed."""


class _Worker:
    """A process that does `work` on the shards that it is sent, one after the other."""

    def __init__(self, work: Work, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.asked, theirs = context.Pipe()
        self.process = context.Process(target=_in_child, args=(work, folder, theirs))
        self.process.start()
        theirs.close()  # so that `asked` is at its end when the process is

    def start(self, shard: str) -> None:
        with suppress(OSError):  # it was killed; the answer says so
            self.asked.send(shard)

    def answer(self) -> Any:
        """What it says of its shard; None: it was killed before."""
        try:
            return self.asked.recv()
        except (EOFError, OSError):
            self.process.join()
            self.end()
            return None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.asked.close()


def _count_death(watch: Watch, shard: str, exitcode: int | None) -> None:
    id = watch.died()
    what = f"{shard}: its process was killed (exit code {exitcode})"
    if not id and watch.deaths[id] >= TRIES:
        raise StageError(f"{what} {TRIES} times, at no document; lower corpus.workers or ingest.shard_characters")
    if watch.deaths.total() >= DEATHS:
        raise StageError(f"{what} {DEATHS} times, now at {id}; lower corpus.workers or ingest.shard_characters")


def _in_child(work: Work, folder: Path, asked: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stage's process gets it too, and ends this one
    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        shard = asked.recv()
        with Watch(folder, shard) as watch:
            watch.at("")
            try:
                result = work(shard, watch)
            except (StageError, StorageError) as error:
                asked.send(_Failed(error))
            except Exception as error:  # noqa: BLE001 (it ends the stage, in the parent)
                if isinstance(error, OSError) and of_the_machine(error):
                    asked.send(error)
                    continue
                traceback.print_exc()
                asked.send(_Failed(f"{shard}, document {watch.now or 'none'}: {type(error).__name__}: {error}"))
            else:
                asked.send((result,))


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a child
    parent.join()
    os._exit(1)
