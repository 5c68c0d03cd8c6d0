"""Tensors that may be spread over processes (DTensor)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


def whole(tensor: Tensor) -> Tensor:
    """The full value of `tensor`, on every process; where it is spread, all of them must call this."""
    if not torch.distributed.is_initialized():
        return tensor  # without DTensor, whose import takes a second
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def everything(tensors: Mapping[str, Tensor], stages: ProcessGroup | None) -> dict[str, Tensor]:
    """The full values of `tensors` on the CPU, with those of the processes that have the other layers of the model.

    Args:
        stages: these processes; None: there are none. All of them must call this.
    """
    own = {name: whole(tensor).cpu().contiguous() for name, tensor in tensors.items()}
    if stages is None:
        return own
    found: list[dict[str, Tensor]] = [{}] * stages.size()
    torch.distributed.all_gather_object(found, own, stages)
    return {name: tensor for part in found for name, tensor in part.items()}
