"""One layer: attention and a feed-forward, each behind a norm and added to the residual stream.

Shapes: B sequences, T positions, S key positions, C numbers cached per token, D hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from k2core.model.attention import Attention
from k2core.model.cache import KeyValueCache
from k2core.model.config import ModelConfig
from k2core.model.experts import MixtureOfExperts, SwiGLU
from k2core.model.mha import MultiHeadAttention
from k2core.model.mla import MultiHeadLatentAttention
from k2core.model.norm import RMSNorm
from k2core.ops import Reach, Rotation


class Block(nn.Module):
    """Layer number `index`; the first `first_k_dense_replace` layers have no experts."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        dense = index < config.first_k_dense_replace
        self.index = index
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn: Attention = (
            MultiHeadLatentAttention(config) if config.attention == "mla" else MultiHeadAttention(config)
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: SwiGLU | MixtureOfExperts = (
            SwiGLU(config.hidden_size, config.intermediate_size) if dense else MixtureOfExperts(config)
        )

    def forward(self, x_BTD: Tensor, rotation: Rotation, reach: Reach, cache: KeyValueCache | None = None) -> Tensor:
        """Whole sequences; `cache` takes what decoding will need."""
        normed = self.input_layernorm(x_BTD)
        cached_BSC = reach.gather(self.self_attn.cached(normed, rotation))
        if cache:
            cache.write_prompts(self.index, cached_BSC)
        x_BTD = x_BTD + self.self_attn(normed, cached_BSC, rotation, reach)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))

    def decode(
        self, x_BD: Tensor, rotation: Rotation, mask_B1S: Tensor, cache_BSC: Tensor, lengths_B: Tensor
    ) -> Tensor:  # fmt: skip
        """One new token per sequence, which enters this layer's cache at the sequence's length."""
        normed = self.input_layernorm(x_BD)
        cache_BSC[torch.arange(len(x_BD), device=x_BD.device), lengths_B] = self.self_attn.cached(normed, rotation)
        x_BD = x_BD + self.self_attn.decode(normed, cache_BSC[:, : mask_B1S.shape[-1]], rotation, mask_B1S)
        return x_BD + self.mlp(self.post_attention_layernorm(x_BD))
