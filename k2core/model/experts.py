"""Feed-forwards: SwiGLU, and the mixture of routed and shared experts (DeepSeek-V3 §2.1.2; K2 §2.3).

Gate and up projections lie in one tensor, so that a token is multiplied once. To the optimiser, each [F, D] slice is
still a matrix of its own.

Shapes: N tokens, D hidden width, K experts per token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from k2core import ops
from k2core.model.config import ModelConfig
from k2core.model.router import Router


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) with inner width `width`."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(2, width, hidden))
        self.down_proj = nn.Parameter(torch.empty(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(ops.swiglu(ops.linear(x, self.gate_up_proj.flatten(0, 1))), self.down_proj)


class Experts(nn.Module):
    """The routed experts, their weights stacked. No token is dropped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E, F, D = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2, F, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, F))

    def forward(
        self, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Sum over each token's experts of weight × expert(token), and `beside(x_ND)`, [N, D]."""
        return ops.routed_experts(x_ND, experts_NK, weights_NK, self.gate_up_proj, self.down_proj) + beside(x_ND)


class MixtureOfExperts(nn.Module):
    """Routed experts plus the shared ones, which are one SwiGLU of their joint width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = SwiGLU(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        x_ND = x.flatten(0, -2)
        return self.experts(x_ND, *self.gate(x_ND), self.shared_experts).view_as(x)
