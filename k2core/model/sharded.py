"""Tensors that may be spread over processes (DTensor)."""

from __future__ import annotations

import torch
from torch import Tensor


def whole(tensor: Tensor) -> Tensor:
    """The full value of `tensor`, on every process; where it is spread, all of them must call this."""
    if not torch.distributed.is_initialized():
        return tensor  # without DTensor, whose import takes a second
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
