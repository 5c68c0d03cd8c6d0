"""Which columns of each row this process has, and which keys its queries see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

QUERY_BLOCK = 128
"""Queries handled at once: a block sees only the keys up to its end, which skips most of the masked half. On two
cores in fp32, with the maximum, 1.5 (T 256) to 2.5 times (T 1,024) as fast as `scaled_dot_product_attention`."""


@dataclass(frozen=True)
class Reach:
    """What the T queries of a forward pass see of the S keys of their rows.

    Attributes:
        mask_B1TS: 0 where a pair is allowed, -inf elsewhere.
        blocks: (start, end, first, last): queries `start` to `end` see none but the keys `first` to `last`.
        gather: makes [B, S, C], in order, of this process's [B, T, C].
    """

    mask_B1TS: Tensor
    blocks: list[tuple[int, int, int, int]]
    gather: Callable[[Tensor], Tensor]


class WholeRows:
    """The process has every column, so S = T. `k2core.training.context_parallel` has the other case."""

    ranks = 1
    """Processes that share a row."""

    def chunks(self, T: int) -> list[tuple[int, int]]:
        """`(offset in the row, length)` of the runs of columns that make up the T columns of this process."""
        return [(0, T)]

    def gather(self, part: Tensor) -> Tensor:
        """All columns [B, S, …], in order, of this process's [B, T, …]."""
        return part

    def columns(self, T: int, device: torch.device) -> Tensor:
        """Where in the row the T columns of this process stand, [T]."""
        return torch.cat([torch.arange(offset, offset + length, device=device) for offset, length in self.chunks(T)])

    def reach(self, T: int, segments_BT: Tensor | None, like: Tensor) -> Reach:
        """Causal attention within equal segment numbers; the mask has device and type of `like`."""
        keys_S = torch.arange(self.ranks * T, device=like.device)
        hidden_BTS = (keys_S > self.columns(T, like.device)[:, None])[None]
        if segments_BT is not None:
            hidden_BTS = hidden_BTS | (segments_BT[:, :, None] != self.gather(segments_BT)[:, None, :])
        mask_B1TS = like.new_zeros(hidden_BTS.shape).masked_fill(hidden_BTS, -torch.inf)[:, None]
        blocks, column = [], 0
        for offset, length in self.chunks(T):
            for start in range(0, length, QUERY_BLOCK):
                end = min(start + QUERY_BLOCK, length)
                block, first = slice(column + start, column + end), 0
                if segments_BT is not None:  # packed documents, shorter than the row: most keys before are not seen
                    first = int(hidden_BTS[:, block].all(dim=(0, 1)).logical_not().int().argmax())
                blocks.append((block.start, block.stop, first, offset + end))
            column += length
        return Reach(mask_B1TS, blocks, self.gather)
