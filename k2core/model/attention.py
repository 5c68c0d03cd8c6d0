"""Multi-head latent attention: compressed queries, keys and values, decoupled rotary part (DeepSeek-V2 §2.1; K2 §2.3).

Two ways through the same weights: over whole sequences (training, prefill) keys and values are expanded a head;
for one new token against a cache (decoding) the up-projections are absorbed into query and output, so that only
the latents [B, S, C] are read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from k2core.model.config import ModelConfig
from k2core.model.norm import RMSNorm
from k2core.model.rope import Rotation, rotate
from k2core.model.yarn import logit_scale

QUERY_BLOCK = 128
"""Queries handled at once: a block sees only the keys up to its end, which skips most of the masked half. On two
cores in fp32, with the maximum, 1.5 (T 256) to 2.5 times (T 1,024) as fast as `scaled_dot_product_attention`."""

LATENT_NORM_EPS = 1e-6
"""`deepseek_v3` fixes it for the two latent norms, whatever `rms_norm_eps` says."""


class Attention(nn.Module):
    """One layer's attention.

    `max_logit_H` is each head's largest scaled pre-softmax logit over causal, same-segment pairs since the last
    reset to -inf: the S of QK-Clip (K2 Algorithm 1). Forward passes without gradient do not count.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, H, self.rank = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
        self.heads, self.nope, self.rope, self.value = (
            H, config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim,
        )  # fmt: skip
        self.scale = config.qk_head_dim**-0.5 * logit_scale(config.rope_scaling)
        self.q_a_proj = nn.Linear(D, config.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
        self.q_b_proj = nn.Linear(config.q_lora_rank, H * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(D, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(self.rank, H * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(H * self.value, D, bias=False)
        self.register_buffer("max_logit_H", torch.full((H,), -torch.inf), persistent=False)

    def latents(self, x_BTD: Tensor, rotation: Rotation) -> Tensor:
        """What decoding caches a token, [B, T, C]: the normalised latent and the rotated shared key."""
        latent_BTR, rope_BTr = self.kv_a_proj_with_mqa(x_BTD).split([self.rank, self.rope], dim=-1)
        return torch.cat([self.kv_a_layernorm(latent_BTR), rotate(rope_BTr, rotation)], dim=-1)

    def _queries(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """The scaled queries [B, T, H, nope] and [B, T, H, rope]."""
        q_BTHd = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD))).unflatten(-1, (self.heads, -1)) * self.scale
        nope, rope = q_BTHd.split([self.nope, self.rope], dim=-1)
        cos, sin = rotation
        return nope, rotate(rope, (cos.unsqueeze(-2), sin.unsqueeze(-2)))

    def forward(self, x_BTD: Tensor, latents_BTC: Tensor, rotation: Rotation, mask_B1TT: Tensor) -> Tensor:
        """Attention over whole sequences; `mask_B1TT` is 0 where a pair is allowed and -inf elsewhere."""
        latent_BTR, rope_BTr = latents_BTC.split([self.rank, self.rope], dim=-1)
        kv_BTHd = self.kv_b_proj(latent_BTR).unflatten(-1, (self.heads, -1))
        k_nope, v_BTHv = kv_BTHd.split([self.nope, self.value], dim=-1)
        k_BTHd = torch.cat([k_nope, rope_BTr.unsqueeze(-2).expand(-1, -1, self.heads, -1)], dim=-1)
        q, k, v = (
            part.transpose(1, 2)
            for part in (torch.cat(self._queries(x_BTD, rotation), dim=-1), k_BTHd, v_BTHv)
        )  # fmt: skip
        blocks = []
        for start in range(0, x_BTD.shape[1], QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, x_BTD.shape[1])
            logits_BHQS = q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2) + mask_B1TT[:, :, start:end, :end]
            if torch.is_grad_enabled():
                torch.maximum(self.max_logit_H, logits_BHQS.detach().amax((0, 2, 3)), out=self.max_logit_H)
            blocks.append(logits_BHQS.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v[:, :, :end])
        return self.o_proj(torch.cat(blocks, dim=2).transpose(1, 2).flatten(2))

    def decode(self, x_BD: Tensor, cache_BSC: Tensor, rotation: Rotation, mask_B1S: Tensor) -> Tensor:
        """Attention of one new token a sequence over cached latents, which include its own."""
        nope_BHn, rope_BHr = self._queries(x_BD, rotation)
        up_HdR = self.kv_b_proj.weight.unflatten(0, (self.heads, -1))
        absorbed_HBR = nope_BHn.transpose(0, 1) @ up_HdR[:, : self.nope]
        query_BHC = torch.cat([absorbed_HBR.transpose(0, 1), rope_BHr], dim=-1)
        weights_BHS = (query_BHC @ cache_BSC.transpose(1, 2) + mask_B1S).softmax(dim=-1)
        context_HBR = (weights_BHS @ cache_BSC[..., : self.rank]).transpose(0, 1)
        return self.o_proj((context_HBR @ up_HdR[:, self.nope :].transpose(1, 2)).transpose(0, 1).flatten(1))
