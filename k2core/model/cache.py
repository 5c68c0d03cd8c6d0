"""The compressed key-value cache: C = kv_lora_rank + qk_rope_head_dim numbers a token and layer, for all heads."""

from __future__ import annotations

import torch
from torch import Tensor

from k2core.model.config import ModelConfig


class LatentCache:
    """Latents of a batch of sequences of different lengths, each from slot 0 on.

    Args:
        slots: most tokens that a sequence may reach.
    """

    def __init__(self, config: ModelConfig, sequences: int, slots: int, like: Tensor) -> None:
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.layers = [like.new_zeros(sequences, slots, width) for _ in range(config.num_hidden_layers)]
        self.lengths_B = torch.zeros(sequences, dtype=torch.long, device=like.device)

    def write_prompts(self, layer: int, latents_BTC: Tensor) -> None:
        """Store the latents of right-padded prompts; padding lands in slots that later tokens overwrite."""
        self.layers[layer][:, : latents_BTC.shape[1]] = latents_BTC

    def append(self, layer: int, latents_BC: Tensor) -> Tensor:
        """Store one token a sequence at its length; returns the slots in use, [B, S, C]."""
        cache, rows = self.layers[layer], torch.arange(len(latents_BC), device=latents_BC.device)
        cache[rows, self.lengths_B] = latents_BC
        return cache[:, : int(self.lengths_B.max()) + 1]

    def mask(self) -> Tensor:
        """0 for the slots up to and with the token to append, -inf after it, [B, 1, S]."""
        slots = torch.arange(int(self.lengths_B.max()) + 1, device=self.lengths_B.device)
        hidden = slots > self.lengths_B[:, None]
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)[:, None]

    def select(self, rows: Tensor) -> None:
        """Keep the given sequences, in that order; one may be taken several times."""
        self.layers = [cache.index_select(0, rows) for cache in self.layers]
        self.lengths_B = self.lengths_B.index_select(0, rows)
