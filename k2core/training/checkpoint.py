"""Checkpoints of a training: whole or absent, written in the background, resumed from the newest sound one.

A checkpoint is a folder `step-N`: tensors as torch.distributed.checkpoint stores them in safetensors (each process its
own part, read by any number of processes; nothing is a pickle), and `state.json` with the trainer's own state, what the
training was made from, and a digest of each file and of itself. It appears by rename. Torn ones are passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator

from k2core.recipe import Section
from k2core.storage import StorageError, publish, write_json
from k2core.storage.atomic import remove, to_disk
from k2core.storage.disk import of_the_machine
from k2core.storage.s3 import Bucket, TornError, sha256
from k2core.training.snapshot import Snapshot

if TYPE_CHECKING:
    from torch.nn import Module

    from k2core.optim.optimizer import Optimizer

STATE = "state.json"
_STEP = re.compile(r"step-\d{8,}")


class CheckpointConfig(Section):
    """Section `checkpoint`: what is kept of a training under way, and where."""

    TRACKED: ClassVar[bool] = False  # a training ends in the same bytes, wherever its checkpoints are

    keep: int = Field(ge=1, description="rolling checkpoints to keep")
    permanent_every: int = Field(ge=0, description="steps between checkpoints that are never removed; 0: none")
    mirror: str = Field(description="s3://bucket/prefix that checkpoints are copied to and restored from; empty: none")
    resume_from: str = Field(
        description="folder or s3:// address of another attempt's checkpoints, used if there are none here; empty: none"
    )
    accept: list[str] = Field(
        description="what may differ from what a checkpoint was made from: tokens, code, model, …"
    )

    @field_validator("mirror")
    @classmethod
    def _is_a_bucket(cls, value: str) -> str:
        if value and not value.startswith("s3://"):
            raise ValueError("must be empty or begin with s3://")
        return value


class Checkpoints:
    """The checkpoints of one training in `folder`; in several processes every call is a collective.

    A context manager: leaving it waits for what is being written, however the training ended.

    Args:
        fingerprint: what the training is made from, name → digest; a checkpoint of something else is refused.
        name: of the training; its folder in the mirror.
    """

    def __init__(
        self, folder: Path, settings: CheckpointConfig, fingerprint: Mapping[str, str], say: Callable[[str], None],
        name: str,
    ) -> None:  # fmt: skip
        import torch.distributed as dist

        # DCP warns when it is used in one process, which is intended here; its own thread warns too.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        self.folder, self.settings, self.fingerprint, self.say = folder, settings, dict(fingerprint), say
        self.mirror = Bucket(f"{settings.mirror.rstrip('/')}/{name}") if settings.mirror else None
        self.many = dist.is_initialized()
        self.first = not self.many or dist.get_rank() == 0
        self._tidy()  # the other processes wait for it in `new_group`
        # The writing thread talks to other processes while the training does: it needs its own group.
        self.group = dist.new_group(backend="gloo") if self.many else None
        self._behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._snapshot = Snapshot()
        self._pending: Future[None] | None = None
        self._begun, self._sound = 0, set[str]()  # step that was restored; checkpoints written or read since
        self._uncopied = False

    def save(self, step: int, model: Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Write `step-N`; returns once the tensors are copied to the host's memory.

        Args:
            state: JSON without NaN.

        Raises:
            StorageError: the previous checkpoint could not be written.
        """
        from torch.distributed.checkpoint import async_save

        from k2core.model.parts import writer

        self._wait()
        scratch = self.folder / f".step-{step:08d}.partial"
        tensors = _tensors(model, optimizer)
        self._snapshot.prepare(tensors)  # done already if the training began with `restore`
        written = async_save(
            tensors, storage_writer=writer(tensors, scratch), process_group=self.group,
            async_stager=self._snapshot.stager,
        )  # fmt: skip
        assert isinstance(written, Future)  # what `async_save` returns unless asked for two stages
        content = json.dumps({"fingerprint": self.fingerprint, **state}, allow_nan=False)  # now: it will change
        self._pending = self._behind.submit(self._publish, written, scratch, step, content)

    def restore(self, model: Module, optimizer: Optimizer) -> dict[str, Any] | None:
        """Load the newest sound checkpoint into `model` and `optimizer`; prints which were passed over.

        Returns:
            The `state` it was saved with; None if there is no sound one.

        Raises:
            StorageError: it is of other data, recipe or code, or does not fit; another attempt's place has none; the
                mirror cannot be reached.
        """
        import torch.distributed as dist

        self._snapshot.prepare(_tensors(model, optimizer))
        answer: list[Any] = [None, None, None]
        if self.first:
            try:
                answer[:2] = self._choose()
            except StorageError as error:
                answer[2] = str(error)
            except OSError as error:
                answer[2] = f"{self.folder}: no checkpoint could be brought there ({error}); make room or mend the disk"
            self._tidy()
        if self.many:
            dist.broadcast_object_list(answer, src=0)
        chosen, state, fault = answer
        if fault:
            raise StorageError(fault)
        if chosen is None:
            return None
        self._load(Path(chosen), model, optimizer)
        return state

    def finish(self) -> None:
        """Wait for what is being written; retry once what could not be copied to the mirror.

        Raises:
            StorageError: it could not be written.
        """
        self._wait()
        if self.mirror and self._uncopied:
            self._copy(self.mirror)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self._behind.shutdown()

    def _tidy(self) -> None:
        """Remove half-written checkpoints: a new one of the same step would be read together with their parts."""
        for partial in self.folder.glob(".step-*.partial") if self.first else ():
            remove(partial)

    def _choose(self) -> tuple[str | None, dict[str, Any] | None]:
        """The newest sound checkpoint and its state: from the folder, else the mirror, else another attempt."""
        for candidate in self._candidates():
            try:
                state = _read(candidate)
            except StorageError as error:
                self.say(f"checkpoint passed over: {error}")
                continue
            self._compare(state.pop("fingerprint"), candidate)
            self._begun = _step(candidate.name)
            self._sound.add(candidate.name)
            return str(candidate), state
        if self.settings.resume_from:
            raise StorageError(f"checkpoint.resume_from: {self.settings.resume_from} has no sound checkpoint")
        self._say_others()
        return None, None

    def _say_others(self) -> None:
        """Name the newest checkpoint of another attempt, and what makes this training go on from it."""
        folders = [folder for folder in self.folder.parent.glob("*/") if folder != self.folder]
        others = [path for folder in folders for path in _newest_first(folder)[:1]]
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[-1:]:
            with suppress(OSError, ValueError, KeyError):  # a torn one is nothing to go on from
                if names := ", ".join(self._differences(json.loads((path / STATE).read_text())["fingerprint"])):
                    self.say(
                        f"{path} is of another {names} and is left alone; to go on from it: checkpoint: "
                        f"{{resume_from: {path.parent}, accept: [{names}]}}"
                    )

    def _candidates(self) -> Iterator[Path]:
        """Checkpoints in the folder; those elsewhere are copied there when their turn comes."""
        yield from _newest_first(self.folder)
        source = self.settings.resume_from
        if self.mirror:
            yield from self._fetch(self.mirror)
        if source.startswith("s3://"):
            yield from self._fetch(Bucket(source))
        elif source:
            for path in _newest_first(Path(source)):
                with publish(self.folder / path.name) as scratch:
                    shutil.copytree(path, scratch)
                yield self.folder / path.name

    def _fetch(self, bucket: Bucket) -> Iterator[Path]:
        for name in reversed(_steps(bucket)):
            self.say(f"fetching {bucket.url}/{name}")
            try:
                bucket.download(name, self.folder / name)
            except TornError as error:
                self.say(f"checkpoint passed over: {error}")
                continue
            yield self.folder / name

    def _differences(self, found: dict[str, str]) -> list[str]:
        """What a checkpoint of the fingerprint `found` was made from otherwise."""
        return sorted(name for name in found.keys() | self.fingerprint if found.get(name) != self.fingerprint.get(name))

    def _compare(self, found: dict[str, str], candidate: Path) -> None:
        names = self._differences(found)
        wrong = [name for name in names if name not in self.settings.accept]
        if wrong:
            raise StorageError(
                f"{candidate}: made from another {', '.join(wrong)}; to resume from it anyway set "
                f"checkpoint.accept: [{', '.join(names)}]; to start over remove that folder, and its copy if it has one"
            )

    def _load(self, folder: Path, model: Module, optimizer: Optimizer) -> None:
        from k2core.model.parts import read_parts

        tensors = _tensors(model, optimizer)
        try:
            read_parts(tensors, folder)
        except StorageError as error:
            raise StorageError(f"{error}; change the model back, or remove that folder") from None
        moments = {name: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")}
        optimizer.load_state_dict({name.removeprefix("optimizer/"): tensor for name, tensor in moments.items()})

    def _publish(self, written: Future[Any], scratch: Path, step: int, state: str) -> None:
        """In the background: wait until all processes have written, then let the first one finish the checkpoint."""
        try:
            written.result()
            if not self.first:
                return
            digests = {file.name: sha256(file) for file in sorted(scratch.iterdir())}
            content = {"files": digests, **json.loads(state)}
            write_json(scratch / STATE, {"sha256": _digest(content), **content})
            for path in [*scratch.iterdir(), scratch]:
                to_disk(path)
            target = self.folder / f"step-{step:08d}"
            remove(target)
            os.replace(scratch, target)
            to_disk(self.folder)
        except BaseException:  # torch's CheckpointException is not an Exception
            with suppress(OSError):  # the disk may be gone: the first fault is the one to tell
                self._tidy()
            raise
        self._sound.add(target.name)
        for old in self._superseded(path.name for path in _newest_first(self.folder)):
            remove(self.folder / old)
        if self.mirror:
            self._copy(self.mirror)

    def _superseded(self, names: Iterable[str]) -> list[str]:
        """Which of the checkpoints `names` are neither permanent nor among the newest.

        Those beyond the restored one that this attempt did not write were passed over. Counted among the newest, they
        would drive out sound ones.
        """
        names = sorted(names, reverse=True)
        astray = [name for name in names if _step(name) > self._begun and name not in self._sound]
        every = self.settings.permanent_every
        rolling = [name for name in names if name not in astray and (not every or _step(name) % every)]
        return astray + rolling[self.settings.keep :]

    def _copy(self, mirror: Bucket) -> None:
        """Bring the mirror up to date; on failure, try again after the next checkpoint and at the end."""
        self._uncopied = True
        try:
            for path in reversed(_newest_first(self.folder)):
                if self._is_sound(path):
                    mirror.upload(path, last=STATE)
            for name in self._superseded(_steps(mirror)):
                mirror.remove(name)
            self._uncopied = False
        except StorageError as error:
            self.say(f"checkpoints could not be copied, training goes on, they stay in {self.folder}: {error}")

    def _is_sound(self, path: Path) -> bool:
        """Whether a checkpoint, maybe of an earlier attempt, may replace one in the mirror."""
        if path.name not in self._sound:
            try:
                _read(path)
            except StorageError:
                return False
            self._sound.add(path.name)
        return True

    def _wait(self) -> None:
        """Wait until nothing is being written; all processes learn how it ended."""
        import torch
        import torch.distributed as dist

        from k2core.model.parts import reason

        if self._pending is None:
            return
        fault = self._pending.exception()
        self._pending = None
        failed = torch.tensor(int(fault is not None))
        if self.many:
            dist.all_reduce(failed, group=self.group)
        if failed:
            why = reason(fault) if fault else "another process could not write"
            raise StorageError(
                f"{self.folder}: a checkpoint could not be written ({why}); the previous one is kept: make room "
                "there or mend the disk, then run the same command again"
            ) from fault


def _tensors(model: Module, optimizer: Optimizer) -> dict[str, Any]:
    """All tensors of a training by name, live."""
    parts = {"model": model.state_dict(), "optimizer": optimizer.state()}
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if _STEP.fullmatch(path.name)), reverse=True)


def _steps(bucket: Bucket) -> list[str]:
    """The checkpoints in a bucket, the oldest first."""
    return [name for name in bucket.folders(STATE) if _STEP.fullmatch(name)]


def _read(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are as they were written.

    Raises:
        StorageError: they are not.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        if not isinstance(state, dict) or state.pop("sha256", None) != _digest(state):
            raise StorageError(f"{folder / STATE} is torn")
        files = state.pop("files", None)
        if not isinstance(files, dict) or not isinstance(state.get("fingerprint"), dict):
            raise StorageError(f"{folder / STATE} is not the state of a checkpoint")
        found = {file.name: sha256(file) for file in folder.iterdir() if file.name != STATE}
    except (OSError, ValueError, RecursionError) as error:
        if of_the_machine(error):  # the next attempt may read it; an older one would lose the steps between
            raise
        raise StorageError(f"{folder} is not readable ({error})") from None
    wrong = sorted(name for name in files.keys() | found if files.get(name) != found.get(name))
    if wrong:
        raise StorageError(f"{folder / wrong[0]} is torn, missing or of another checkpoint")
    return state


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
