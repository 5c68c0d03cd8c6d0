"""Loss of a training batch.

Shapes: B rows, T positions, V vocabulary, M targets.
"""

from __future__ import annotations

from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.model.loss import cross_entropy, token_losses
from k2core.model.transformer import Transformer


def batch_loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean negative log-likelihood in nats per target; the head computes only positions with a target.

    Raises:
        ValueError: the batch has no target.
    """
    logits_MV, targets_M = _wanted(model, batch)
    return cross_entropy(logits_MV, targets_M)


def batch_nll(model: Transformer, batch: Batch) -> Tensor:
    """Sum of the negative log-likelihoods of the batch's targets in nats, 0 where it has none."""
    logits_MV, targets_M = _wanted(model, batch)
    return token_losses(logits_MV, targets_M).sum()


def _wanted(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor]:
    wanted_BT = batch.targets_BT != IGNORE
    logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, wanted_BT)
    return logits_MV, batch.targets_BT[wanted_BT]
