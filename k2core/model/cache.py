"""The key-value cache: C numbers per token and layer, which the attention makes and reads (`ModelConfig.cache_width`).

Shapes: B sequences, T positions, C numbers cached per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core.model.config import ModelConfig


class KeyValueCache:
    """What is kept of a batch of sequences of different lengths, each from slot 0 on.

    Args:
        slots: the most tokens that a sequence may reach.
    """

    def __init__(self, config: ModelConfig, sequences: int, slots: int, like: Tensor) -> None:
        self.layers = [like.new_zeros(sequences, slots, config.cache_width) for _ in range(config.num_hidden_layers)]
        self.lengths_B = torch.zeros(sequences, dtype=torch.long, device=like.device)

    def write_prompts(self, layer: int, cached_BTC: Tensor) -> None:
        """Store right-padded prompts; padding lands in slots that later tokens overwrite."""
        self.layers[layer][:, : cached_BTC.shape[1]] = cached_BTC

    def slots(self) -> int:
        """S: how many slots the next step reads."""
        return int(self.lengths_B.max()) + 1

    def mask(self) -> Tensor:
        """0 for the slots up to and including the token to append, -inf after it, [B, 1, S]."""
        slots = torch.arange(self.slots(), device=self.lengths_B.device)
        hidden = slots > self.lengths_B[:, None]
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep the given sequences, in that order; one may be taken several times."""
        self.layers = [cache.index_select(0, rows) for cache in self.layers]
        self.lengths_B = self.lengths_B.index_select(0, rows)


class FixedCache(KeyValueCache):
    """A cache whose steps read all slots, so that each is like the other and none waits for the lengths."""

    def slots(self) -> int:
        return self.layers[0].shape[1]
