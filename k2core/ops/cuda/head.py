"""The loss of the output head, some rows at a time: the logits of all rows are never there at once.

A row's logits are used up as soon as they are made: its loss, and the gradients of its hidden state and of the head.

Shapes: N tokens, V vocabulary, D hidden width, R rows at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from k2core.machine.compiler import compiled

LOGITS = 2**27
"""Logits that are there at once: 0.5 GB in fp32."""


class HeadLoss(torch.autograd.Function):
    """`apply(hidden [N, D], weight [V, D], targets [N], ignored)`: the sum of the targets' losses in nats, fp32."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, ignored: int) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        dhidden, dweight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        own, rows = weight.to(hidden.dtype), max(1, LOGITS // len(weight))
        for x, dx, target in zip(*(part.split(rows) for part in (hidden, dhidden, targets)), strict=True):
            loss, dlogits = _loss(x @ own.T, target, ignored)
            total += loss
            if any(ctx.needs_input_grad):
                torch.mm(dlogits, own, out=dx)
                dweight += dlogits.T @ x
        ctx.save_for_backward(dhidden, dweight)
        ctx.dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dhidden, dweight = ctx.saved_tensors
        return (dhidden * dtotal).to(dhidden.dtype), (dweight * dtotal).to(ctx.dtype), None, None


def _plain_loss(logits_RV: Tensor, targets_R: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """The sum of the losses, and its gradient [R, V] in the type of the logits."""
    wanted_R = targets_R != ignored
    log_probs_RV = logits_RV.float().log_softmax(dim=-1)
    found_R = log_probs_RV.gather(1, targets_R.clamp(min=0)[:, None])[:, 0]
    hot_RV = torch.arange(logits_RV.shape[1], device=logits_RV.device) == targets_R[:, None]
    gradient_RV = torch.where(wanted_R[:, None], log_probs_RV.exp() - hot_RV.float(), 0.0)
    return -torch.where(wanted_R, found_R, 0.0).sum(), gradient_RV.to(logits_RV.dtype)


_compiled_loss = compiled(_plain_loss)


def _loss(logits_RV: Tensor, targets_R: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    return (_compiled_loss if logits_RV.is_cuda else _plain_loss)(logits_RV, targets_R, ignored)
