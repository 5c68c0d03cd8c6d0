"""Angles of the rotary position embedding (`ops.rotate` applies them), in DeepSeek's interleaved layout.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from k2core.model.config import ModelConfig
from k2core.model.yarn import inverse_frequencies, rotary_scale
from k2core.ops import Rotation


class RotaryEmbedding(nn.Module):
    """Cosines and sines of given positions; all layers share one."""

    inverse_frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = rotary_scale(config.rope_scaling)
        frequencies = inverse_frequencies(config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)
        self.register_buffer("inverse_frequencies", frequencies, persistent=False)

    def forward(self, positions_BT: Tensor) -> Rotation:
        """`(cos, sin)`, each [B, T, rope / 2], in fp32."""
        angles = positions_BT[..., None].float() * self.inverse_frequencies
        return angles.cos() * self.scale, angles.sin() * self.scale
