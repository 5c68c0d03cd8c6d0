"""Plain multi-head attention (Vaswani et al. 2017 §3.2.2), with which MLA is compared.

Each head has queries, keys and values of its own, straight from the residual stream; the last `qk_rope_head_dim`
dimensions of query and key are rotated, all of them where `qk_nope_head_dim` is 0:

    logit_h(t, s) = (R W_q,h x(t)) · (R W_k,h x(s)) · scale

The cache holds whole keys and values: C = H · (qk_head_dim + v_head_dim) numbers per token.

Shapes: B sequences, T positions, S key positions, C numbers cached per token, D hidden width, H heads, n head width
without position, r rotary head width, v head width of the values, d = n + r.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core import ops
from k2core.model.attention import Attention
from k2core.model.config import ModelConfig
from k2core.model.linear import Linear
from k2core.ops import Reach, Rotation


class MultiHeadAttention(Attention):
    """Attention with uncompressed queries, keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        D, H = config.hidden_size, self.heads
        self.q_proj = Linear(D, H * config.qk_head_dim)
        self.k_proj = Linear(D, H * config.qk_head_dim)
        self.v_proj = Linear(D, H * self.value)
        self.o_proj = Linear(H * self.value, D)

    def cached(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Every head's rotated key, then every head's value, [..., H · (d + v)]."""
        return torch.cat([self._rotated(self.k_proj(x), rotation).flatten(-2), self.v_proj(x)], dim=-1)

    def _rotated(self, projected: Tensor, rotation: Rotation) -> Tensor:
        """Queries or keys [..., H·d] as [..., H, d], their rotary part rotated."""
        return torch.cat(self.heads_of(projected, rotation), dim=-1)

    def _keys_and_values(self, cached: Tensor) -> tuple[Tensor, Tensor]:
        """What `cached` gave, as [..., H, d] and [..., H, v]."""
        widths = [self.heads * (self.nope + self.rope), self.heads * self.value]
        keys, values = (part.unflatten(-1, (self.heads, -1)) for part in cached.split(widths, dim=-1))
        return keys, values

    def forward(self, x_BTD: Tensor, cached_BSC: Tensor, rotation: Rotation, reach: Reach) -> Tensor:
        q_BTHd = self._rotated(self.q_proj(x_BTD) * self.scale, rotation)
        out_BTHv, largest_BH = ops.attention(q_BTHd, *self._keys_and_values(cached_BSC), reach)
        self.observe(largest_BH)
        return self.o_proj(out_BTHv.flatten(2))

    def decode(self, x_BD: Tensor, cache_BSC: Tensor, rotation: Rotation, mask_B1S: Tensor) -> Tensor:
        q_BHd = self._rotated(self.q_proj(x_BD) * self.scale, rotation)
        k_BSHd, v_BSHv = self._keys_and_values(cache_BSC)
        logits_BHS = torch.einsum("bhd,bshd->bhs", q_BHd, k_BSHd) + mask_B1S
        weights_BHS = logits_BHS.softmax(dim=-1).to(x_BD.dtype)  # mask, and so logits: fp32
        return self.o_proj(torch.einsum("bhs,bshv->bhv", weights_BHS, v_BSHv).flatten(1))
