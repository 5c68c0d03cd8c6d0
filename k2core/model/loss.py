"""Next-token loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Target of a position without loss."""


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood in nats over the positions with a target, in fp32.

    Args:
        targets_BT: token ids, `IGNORE` where there is no loss.
        weights_BT: weight of each position; the mean is weighted with them.

    Raises:
        ValueError: no position has a target (or a weight), so that there is no mean.
    """
    if not bool((targets_BT != IGNORE).any()):
        raise ValueError("no position of the batch has a target, so there is no loss to take the mean of")
    if weights_BT is None:
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE)
    weights = weights_BT * (targets_BT != IGNORE)
    return -(token_log_probs(logits_BTV, targets_BT) * weights).sum() / weights.sum()


def token_log_probs(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Log-probability in nats of each target, [B, T], fp32; 0 where the target is `IGNORE`."""
    logits = logits_BTV.flatten(0, 1).float()
    losses = F.cross_entropy(logits, targets_BT.flatten(), ignore_index=IGNORE, reduction="none")
    return -losses.view_as(targets_BT)
