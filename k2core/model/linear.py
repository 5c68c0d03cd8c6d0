"""Linear layers without a bias, one or a stack of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2core.ops.cpu import autograd
from k2core.ops.cpu.build import usable


class Linear(nn.Linear):
    """y = x Wᵀ."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ for x [..., in] and W [out, in]."""
    if usable(x, weight):
        rows = x.flatten(0, -2)
        ends = torch.tensor([len(rows)], dtype=torch.int32)
        return autograd.Linear.apply(rows, ends, weight[None]).unflatten(0, x.shape[:-1])
    return F.linear(x, weight)


def grouped_linear(x_MD: Tensor, weights_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """x Wᵀ, [M, F], with the weights of layer e for the rows up to `ends_E[e]` (int32).

    Without the kernels, `grouped_mm` was the fastest way on two cores in fp32 (2,048 tokens, 8 experts, forward and
    backward: 12 ms; one matmul an expert on sorted tokens 14 ms, a loop that gathers 15 ms).
    """
    if usable(x_MD, weights_EFD):
        return autograd.Linear.apply(x_MD, ends_E, weights_EFD)
    return F.grouped_mm(x_MD, weights_EFD.mT, offs=ends_E)
