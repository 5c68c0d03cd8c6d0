"""The way of tokens to their experts and back: gathers both ways, in the backward pass too.

Each visit of a token to an expert has a row. Autograd would return gradients by adding them up where they fall, by
atomics or by sorting again, which took 22% of a step in bf16 on an H200. Here a token knows the rows of its visits, so
both directions only read.

Shapes: N tokens, M = N·K visits sorted by expert, D hidden width, E experts, K experts per token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sort_visits(experts_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(order_M, token_M, place_NK, ends_E)` of all visits, expert by expert, those of an expert in the tokens' order.

    Row m is visit number `order_M[m]` = token · K + choice, and of token `token_M[m]`; visit (n, k) has row
    `place_NK[n, k]`; expert e's rows end before `ends_E[e]` (int32). Every row is some visit's.
    """
    sorted_M, order_M = experts_NK.flatten().sort(stable=True)
    bounds_E = torch.arange(experts, device=experts_NK.device)
    ends_E = torch.searchsorted(sorted_M, bounds_E, right=True, out_int32=True)
    return order_M, order_M // experts_NK.shape[1], order_M.argsort().view_as(experts_NK), ends_E


class Gather(torch.autograd.Function):
    """`apply(x [N, D], token [M], place [N, K])`: the rows of `x` sorted by expert, [M, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x[token]

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return dout[place].sum(1, dtype=torch.float32).to(dout.dtype), None, None


class Combine(torch.autograd.Function):
    """`apply(y [M, D], weights [N, K] in fp32, order [M], token [M], place [N, K])`: the weighted sum over experts of
    each token, [N, D]."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, order: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, order, token, place)
        return (y[place] * weights.unsqueeze(-1)).sum(1, dtype=torch.float32).to(y.dtype)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        y, weights, order, token, place = ctx.saved_tensors
        dy = (dout[token] * weights.flatten()[order].unsqueeze(1)).to(y.dtype)
        dweights = (y[place].float() * dout.unsqueeze(1)).sum(-1).to(weights.dtype)
        return dy, dweights, None, None, None
