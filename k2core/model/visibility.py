"""Which columns of each row this process has, and which keys its queries see.

Shapes: B sequences, T positions, S key positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core.ops import Reach


class WholeRows:
    """The process has every column, so S = T. `k2core.training.context_parallel` has the other case."""

    def runs(self, T: int) -> list[tuple[int, int]]:
        """`(column, length)` of the runs of consecutive columns that make up the T columns of this process."""
        return [(0, T)]

    def gather(self, part: Tensor) -> Tensor:
        """All columns [B, S, …], in order, of this process's [B, T, …]."""
        return part

    def columns(self, T: int, device: torch.device) -> Tensor:
        """Columns of the row that this process has, [T]."""
        return torch.cat([torch.arange(column, column + length, device=device) for column, length in self.runs(T)])

    def reach(self, T: int, segments_BT: Tensor | None) -> Reach:
        """Causal attention within equal segment numbers."""
        segments_BS = None if segments_BT is None else self.gather(segments_BT)
        return Reach(self.runs(T), segments_BT, segments_BS, self.gather)
