"""What a training step reads.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from k2core.model.loss import IGNORE

__all__ = ["IGNORE", "Batch"]


@dataclass(frozen=True)
class Batch:
    """B rows of T tokens; each field is a LongTensor of shape (B, T).

    `targets_BT` is the next token or `IGNORE`; attention stays within equal `segments_BT` of a row, and
    `positions_BT` restart with each segment; those of a branch (`k2core.ops.BRANCH`) go on.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))
