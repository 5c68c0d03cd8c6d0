"""Loss of a training batch.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.model.transformer import Transformer


def batch_loss(model: Transformer, batch: Batch) -> Tensor:
    """Mean negative log-likelihood in nats per target.

    Raises:
        ValueError: the batch has no target.
    """
    targets = (batch.targets_BT != IGNORE).sum()
    if not targets:
        raise ValueError("no position of the batch has a target, so there is no loss to take the mean of")
    return batch_nll(model, batch) / targets


def batch_nll(model: Transformer, batch: Batch) -> Tensor:
    """Sum of the negative log-likelihoods of the batch's targets in nats, 0 where it has none."""
    return model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, targets_BT=batch.targets_BT)
