"""Loss of a training batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from k2core.corpus.batch import IGNORE, Batch
from k2core.model.loss import cross_entropy


def batch_loss(model: Any, batch: Batch) -> Tensor:
    """Mean negative log-likelihood in nats a target; the head works where there is a target only.

    Raises:
        ValueError: the batch has no target.
    """
    wanted_BT = batch.targets_BT != IGNORE
    logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, wanted_BT)
    return cross_entropy(logits_MV, batch.targets_BT[wanted_BT])
