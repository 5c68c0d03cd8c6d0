"""What training waits for when a checkpoint is made: a copy of all tensors in the host's memory, written from there.

From a GPU they go to pinned memory, at the full speed of the bus (7 GB: 0.2 s, where pageable memory took seconds). It
is allocated once, before the first step, since that takes longer than the copy. Not yet measured on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2core.machine import device

if TYPE_CHECKING:
    from torch import Tensor


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
