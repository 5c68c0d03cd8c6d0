"""What training waits for when a checkpoint is made: a copy of all tensors in the host's memory, written from there.

From a GPU they go to pinned memory, at the full speed of the bus (7 GB: 0.2 s, where pageable memory took seconds). It
is allocated once, before the first step, since that takes longer than the copy. Not yet measured on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2core.machine import device

if TYPE_CHECKING:
    from torch import Tensor

FILE = 2**28
"""Bytes of a file, roughly: safetensors makes a file in memory, and Python, and so training, stands still meanwhile."""


class Snapshot:
    """Memory for one copy; it may be written to again when the checkpoint before has been published."""

    def __init__(self) -> None:
        from torch.distributed.checkpoint.staging import BlockingAsyncStager

        self.pinned = device.here().type == "cuda"
        self.stager = BlockingAsyncStager(cache_staged_state_dict=self.pinned)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Allocate what copies of `tensors` will need, where that is kept."""
        if self.pinned:
            self.stager.stage(tensors)


def files_of(tensors: dict[str, Tensor]) -> dict[str, int] | None:
    """Which file each tensor goes to, counted from 1; None if all fit into one."""
    numbers, number, size = {}, 1, 0
    for name, tensor in tensors.items():
        bytes_ = tensor.numel() * tensor.element_size()
        if size and size + bytes_ > FILE:
            number, size = number + 1, 0
        size += bytes_
        numbers[name] = number
    return numbers if number > 1 else None
