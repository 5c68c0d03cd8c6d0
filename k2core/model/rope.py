"""Rotary position embedding in DeepSeek's interleaved layout: dimensions (0, 1), (2, 3), … are the rotated pairs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from k2core.model.config import ModelConfig
from k2core.model.yarn import inverse_frequencies, rotary_scale

Rotation = tuple[Tensor, Tensor]


class RotaryEmbedding(nn.Module):
    """Cosines and sines of given positions; one for all layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = rotary_scale(config.rope_scaling)
        frequencies = inverse_frequencies(config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)
        self.register_buffer("inverse_frequencies", frequencies, persistent=False)

    def forward(self, positions_BT: Tensor) -> Rotation:
        """`(cos, sin)`, each [B, T, rope / 2], in fp32."""
        angles = positions_BT[..., None].float() * self.inverse_frequencies
        return angles.cos() * self.scale, angles.sin() * self.scale


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the last axis of `x` [..., rope]; the cosines' axes must broadcast against all others.

    The result holds the pairs' first members, then the second ones. Queries and keys are permuted alike, so their
    products are those of the interleaved layout.
    """
    cos, sin = rotation
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
