"""Feed-forwards: SwiGLU, and the mixture of routed and shared experts (DeepSeek-V3 §2.1.2; K2 §2.3).

Gate and up projections lie in one tensor, so that a token is multiplied once. Each [F, D] slice is still a matrix
of its own to the optimiser.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2core.model.config import ModelConfig
from k2core.model.linear import grouped_linear, linear
from k2core.model.router import Router
from k2core.ops.cpu import autograd
from k2core.ops.cpu.build import usable


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) with inner width `width`."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(2, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return linear(swiglu(linear(x, self.gate_up_proj.flatten(0, 1))), self.down_proj)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up of [..., 2F]."""
    if usable(gate_up):
        return autograd.SwiGLU.apply(gate_up.flatten(0, -2)).unflatten(0, gate_up.shape[:-1])
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class Experts(nn.Module):
    """The routed experts' weights, stacked. Tokens are sorted by expert; no token is dropped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, F_, D = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2, F_, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F_))

    def forward(self, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """Sum over each token's experts of weight × expert(token), [N, D]."""
        return apply_experts(x_ND, experts_NK, weights_NK, self.gate_up_proj, self.down_proj)


def apply_experts(
    x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    """`Experts.forward` with the weights as arguments."""
    if usable(x_ND, weights_NK):
        place_NK, token_M, ends_E = autograd.sort_visits(experts_NK, len(down_EDF))
        sorted_MD = autograd.Gather.apply(x_ND, token_M, place_NK)
        out_MD = _experts(sorted_MD, ends_E, gate_up_E2FD, down_EDF)
        return autograd.Combine.apply(out_MD, place_NK, weights_NK)
    chosen = experts_NK.flatten()
    order = chosen.argsort(stable=True)  # (token, choice) pairs, expert by expert
    ends_E = torch.bincount(chosen, minlength=len(down_EDF)).cumsum(0).to(torch.int32)
    tokens = order // experts_NK.shape[1]
    out_MD = _experts(x_ND.index_select(0, tokens), ends_E, gate_up_E2FD, down_EDF)
    out_MD = out_MD * weights_NK.flatten().index_select(0, order).unsqueeze(1).to(out_MD.dtype)
    return torch.zeros_like(x_ND).index_add(0, tokens, out_MD)


def _experts(sorted_MD: Tensor, ends_E: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """Each expert on its rows, which end at `ends_E`."""
    return grouped_linear(swiglu(grouped_linear(sorted_MD, gate_up_E2FD.flatten(1, 2), ends_E)), down_EDF, ends_E)


class MixtureOfExperts(nn.Module):
    """Routed experts plus the shared ones, which are one SwiGLU of their joint width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = SwiGLU(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        x_ND = x.flatten(0, -2)
        return (self.experts(x_ND, *self.gate(x_ND)) + self.shared_experts(x_ND)).view_as(x)
