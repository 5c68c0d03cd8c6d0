"""Tensors on disk that many processes write and read, each its own part (torch.distributed.checkpoint, DCP).

A folder has safetensors files, one or more for each process, with the place of each part in its tensor. Any number of
processes can read it, however they divide the tensors; so they can a folder of plain safetensors. No process ever has
more of a tensor in memory than its own part. All processes must see the same file system.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from k2core.machine.processes import gathered
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine

if TYPE_CHECKING:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

FILE = 2**28
"""Bytes of a file, roughly: safetensors makes a file in memory, and Python, and so training, stands still meanwhile."""


def write_parts(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write `tensors` to a new folder, that which the first process names; a collective of all processes.

    Raises:
        StorageError: a process could not write.
    """
    from torch.distributed.checkpoint import CheckpointException, save

    where = gathered(folder)[0]
    try:
        save(dict(tensors), storage_writer=writer(tensors, where))
    except CheckpointException as error:
        raise StorageError(f"{where}: could not be written ({reason(error)}); make room there, run it again") from None


def read_parts(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Fill `tensors` with what `folder` has under their names; a collective of all processes, if there are several.

    Raises:
        StorageError: a tensor or a part of it is not there, is torn, or has another shape.
    """
    from torch.distributed.checkpoint import CheckpointException, load
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    try:
        kept: Any = reader.read_metadata().state_dict_metadata
    except (SafetensorError, OSError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{folder}: not whole safetensors files ({error})") from None
    for name in tensors.keys() & kept.keys():  # where a file is lost, DCP would leave a hole as it is
        if sum(chunk.sizes.numel() for chunk in kept[name].chunks) != kept[name].size.numel():
            raise StorageError(f"{folder}: a part of {name} is not there")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended, in one process
            load(dict(tensors), storage_reader=reader)
    except CheckpointException as error:
        raise StorageError(f"{folder}: does not fit this model ({reason(error)})") from None


def writer(tensors: Mapping[str, Tensor], folder: Path) -> HuggingFaceStorageWriter:
    """What DCP writes `tensors` to `folder` with; a collective of all processes."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    return HuggingFaceStorageWriter(str(folder), _files_of(tensors), save_distributed=True)


def reason(fault: BaseException) -> str:
    """What went wrong in one line, without DCP's traces."""
    for rank, (error, _) in getattr(fault, "failures", {}).items():
        return f"process {rank}: {reason(error)}"
    return " ".join(str(fault).split())


def _files_of(tensors: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Which file of a process each tensor's part goes to, counted from 1; None if all fit into one.

    DCP takes the first process's answer for all, so that it has the names of a pipeline's other stages too.
    """
    sizes: dict[str, int] = {}
    for own in gathered({name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}):
        sizes |= own
    numbers, number, size = {}, 1, 0
    for name, bytes_ in sizes.items():
        if size and size + bytes_ > FILE:
            number, size = number + 1, 0
        size += bytes_
        numbers[name] = number
    return numbers if number > 1 else None
