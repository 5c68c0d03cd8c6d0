"""Next-token loss.

Shapes: B sequences, N tokens, T positions, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from k2core import ops

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
    if not bool((targets != IGNORE).any()):
        raise ValueError("no position of the batch has a target, so there is no loss to take the mean of")
    losses = token_losses(logits.flatten(0, -2), targets.flatten())
    return losses.sum() / (targets != IGNORE).sum()


def token_log_probs(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Log-probability in nats of each target, [B, T], fp32; 0 where the target is `IGNORE`."""
    return -token_losses(logits_BTV.flatten(0, 1), targets_BT.flatten()).view_as(targets_BT)


def token_losses(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each target, [N], fp32; 0 where the target is `IGNORE`."""
    return ops.token_losses(logits_NV, targets_N, IGNORE)
