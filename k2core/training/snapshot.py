"""What training waits for when a checkpoint is made: a copy of all tensors in the host's memory, written from there.

The memory is kept, and made before the first step: fresh pages take several times as long as the copy. From a GPU it is
pinned, for the full speed of the bus (7 GB: 0.2 s, where pageable memory took seconds); not yet measured on a GPU.
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

        self.stager = BlockingAsyncStager(cache_staged_state_dict=True)

    def prepare(self, tensors: dict[str, Tensor]) -> None:
        """Allocate what copies of `tensors` will need, and touch it, unless that has been done."""
        import torch

        if self.stager.state_dict_cache is not None:
            return
        if device.here().type == "cpu":  # where the stager would pin it
            self.stager.state_dict_cache = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
        self.stager.stage(tensors)
