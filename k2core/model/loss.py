"""Next-token loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100
"""Target of a position without loss."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats over the positions with a target, in fp32.

    Args:
        logits: [..., V].
        targets: token ids [...], `IGNORE` where there is no loss. A model asked for the logits of wanted positions
            only (`Transformer.forward`) spares the rest of the head's work.

    Raises:
        ValueError: no position has a target, so that there is no mean.
    """
    wanted = targets != IGNORE
    if not bool(wanted.any()):
        raise ValueError("no position of the batch has a target, so there is no loss to take the mean of")
    if not bool(wanted.all()):
        logits, targets = logits[wanted], targets[wanted]
    return MeanCrossEntropy.apply(logits.flatten(0, -2).float(), targets.flatten())


class MeanCrossEntropy(torch.autograd.Function):
    """Mean of -log softmax(logits)[target]; the gradient, (softmax - one-hot) / M, is made in one buffer."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, targets_M: Tensor) -> Tensor:
        """The loss, a scalar."""
        log_probs_MV = logits_MV.log_softmax(dim=-1)
        ctx.save_for_backward(log_probs_MV, targets_M)
        return -log_probs_MV.gather(1, targets_M[:, None]).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Gradient of the logits, [M, V]."""
        log_probs_MV, targets_M = ctx.saved_tensors
        grad_MV = log_probs_MV.exp()
        grad_MV.scatter_add_(1, targets_M[:, None], grad_MV.new_full((len(targets_M), 1), -1.0))
        return grad_MV.mul_(grad / len(targets_M)), None


def token_log_probs(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Log-probability in nats of each target, [B, T], fp32; 0 where the target is `IGNORE`."""
    logits = logits_BTV.flatten(0, 1).float()
    losses = F.cross_entropy(logits, targets_BT.flatten(), ignore_index=IGNORE, reduction="none")
    return -losses.view_as(targets_BT)
