"""Multi-head latent attention: compressed queries, keys and values, decoupled rotary part (DeepSeek-V2 §2.1; K2 §2.3).

With x the normalised residual stream, N an RMS norm and R the rotation at a token's position (DeepSeek-V2 eq. 9-19):

    c_q = N(W_qa x)                 [nope_h; rope_h] = W_qb c_q                    queries of head h
    [c; r] = W_kva x                latent N(c), shared rotary key R r             the cache: C = rank + rope numbers
    [k_h; v_h] = W_kvb N(c)         keys without position and values of head h
    logit_h(t, s) = (nope_h(t) · k_h(s) + R rope_h(t) · R r(s)) · scale

The same weights are used in two ways. Over whole sequences (training, prefill), keys and values are expanded per head.
For one new token against a cache (decoding), the up-projections are absorbed into query and output,
nope_h · W_k N(c) = (W_kᵀ nope_h) · N(c), so that only the latents [B, S, C] are read.

Shapes: B sequences, T positions, S key positions, C numbers cached per token, R latent rank, D hidden width, H heads,
n head width without position, r rotary head width, v head width of the values, d = n + r, e = n + v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core import ops
from k2core.model.attention import Attention
from k2core.model.config import ModelConfig
from k2core.model.linear import Linear
from k2core.model.norm import RMSNorm
from k2core.ops import Reach, Rotation

LATENT_NORM_EPS = 1e-6
"""`deepseek_v3` fixes it for the two latent norms, whatever `rms_norm_eps` says."""


class MultiHeadLatentAttention(Attention):
    """Attention whose cache is one latent and one rotary key per token, for all heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        D, H = config.hidden_size, self.heads
        query_rank, self.rank = config.latent_ranks
        self.q_a_proj = Linear(D, query_rank)
        self.q_a_layernorm = RMSNorm(query_rank, LATENT_NORM_EPS)
        self.q_b_proj = Linear(query_rank, H * config.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(D, self.rank + self.rope)
        self.kv_a_layernorm = RMSNorm(self.rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(self.rank, H * (self.nope + self.value))
        self.o_proj = Linear(H * self.value, D)

    def cached(self, x: Tensor, rotation: Rotation) -> Tensor:
        """The normalised latent and the rotated shared key, [..., rank + rope]."""
        latent, rope = self.kv_a_proj_with_mqa(x).split([self.rank, self.rope], dim=-1)
        return torch.cat([self.kv_a_layernorm(latent), ops.rotate(rope, rotation)], dim=-1)

    def _projected(self, x: Tensor) -> Tensor:
        """The queries of `x` [..., D] as they are projected, [..., H · (nope + rope)]."""
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))

    def _queries(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """The scaled queries of `x` [..., D]: [..., H, nope] and, rotated, [..., H, rope]."""
        return self.heads_of(self._projected(x) * self.scale, rotation)

    def forward(self, x_BTD: Tensor, cached_BSC: Tensor, rotation: Rotation, reach: Reach) -> Tensor:
        latent_BSR, shared_BSr = cached_BSC.split([self.rank, self.rope], dim=-1)
        kv_BSHe = self.kv_b_proj(latent_BSR).unflatten(-1, (self.heads, -1))
        q_BTHd = self._projected(x_BTD).unflatten(-1, (self.heads, -1))
        out_BTHv, largest_BH = ops.latent_attention(q_BTHd, kv_BSHe, shared_BSr, rotation, reach, self.scale)
        self.observe(largest_BH)
        return self.o_proj(out_BTHv.flatten(2))

    def decode(self, x_BD: Tensor, cache_BSC: Tensor, rotation: Rotation, mask_B1S: Tensor) -> Tensor:
        nope_BHn, rope_BHr = self._queries(x_BD, rotation)
        up_HeR = self.kv_b_proj.weight.to(x_BD.dtype).unflatten(0, (self.heads, -1))
        absorbed_HBR = nope_BHn.transpose(0, 1) @ up_HeR[:, : self.nope]
        query_BHC = torch.cat([absorbed_HBR.transpose(0, 1), rope_BHr], dim=-1)
        weights_BHS = (query_BHC @ cache_BSC.transpose(1, 2) + mask_B1S).softmax(dim=-1).to(x_BD.dtype)  # mask: fp32
        context_HBR = (weights_BHS @ cache_BSC[..., : self.rank]).transpose(0, 1)
        return self.o_proj((context_HBR @ up_HeR[:, self.nope :].transpose(1, 2)).transpose(0, 1).flatten(1))
