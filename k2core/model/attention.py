"""What the kinds of attention share: their interface, and the record of each head's largest logit.

The kinds, chosen by `ModelConfig.attention`: `mla.py` (K2's) and `mha.py`.

Shapes: B sequences, T positions, S key positions, C numbers cached per token, D hidden width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from k2core import ops
from k2core.model.config import ModelConfig
from k2core.model.yarn import logit_scale
from k2core.ops import Reach, Rotation


class Attention(nn.Module):
    """One layer's attention over H heads.

    `max_logit_H` is each head's largest scaled pre-softmax logit over causal, same-segment pairs since the last
    reset to -inf: the S of QK-Clip (K2 Algorithm 1). It may stay -inf while no logit exceeds the model's
    `logits_above`. It is recorded while `observing`, which the model switches on for
    forward passes with gradient; recomputed activations (`torch.utils.checkpoint`) are thus not seen twice.
    """

    max_logit_H: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.nope, self.rope, self.value = (
            config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim,
        )  # fmt: skip
        self.scale = config.qk_head_dim**-0.5 * logit_scale(config.rope_scaling)
        self.observing = False
        self.register_buffer("max_logit_H", torch.full((self.heads,), -torch.inf), persistent=False)

    def cached(self, x: Tensor, rotation: Rotation) -> Tensor:
        """What decoding keeps of each token of `x` [..., D], [..., C]; keys in it are rotated."""
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, cached_BSC: Tensor, rotation: Rotation, reach: Reach) -> Tensor:
        """Attention of many tokens per sequence over all S of it; S = T unless processes share rows."""
        raise NotImplementedError

    def decode(self, x_BD: Tensor, cache_BSC: Tensor, rotation: Rotation, mask_B1S: Tensor) -> Tensor:
        """Attention of one new token per sequence over the cached ones, which include its own."""
        raise NotImplementedError

    def heads_of(self, projected: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Queries or keys [..., H·d] as [..., H, nope] and, rotated, [..., H, rope]."""
        nope, rope = projected.unflatten(-1, (self.heads, -1)).split([self.nope, self.rope], dim=-1)
        cos, sin = rotation
        return nope, ops.rotate(rope, (cos.unsqueeze(-2), sin.unsqueeze(-2)))

    def observe(self, largest_BH: Tensor) -> None:
        """Record each sequence's and head's largest logit, while `observing`."""
        if self.observing:
            self.max_logit_H.copy_(torch.maximum(self.max_logit_H, largest_BH.amax(0)))
