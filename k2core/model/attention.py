"""What the kinds of attention share: causal softmax in blocks of queries, and each head's largest logit.

The kinds, chosen by `ModelConfig.attention`: `mla.py` (K2's) and `mha.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from k2core.model.config import ModelConfig
from k2core.model.rope import Rotation
from k2core.model.yarn import logit_scale

QUERY_BLOCK = 128
"""Queries handled at once: a block sees only the keys up to its end, which skips most of the masked half."""


class Attention(nn.Module):
    """One layer's attention over H heads.

    `max_logit_H` is each head's largest scaled pre-softmax logit over causal, same-segment pairs since the last
    reset to -inf: the S of QK-Clip (K2 Algorithm 1). It is taken while `observing`, which the model switches on for
    forward passes with gradient; recomputed activations (`torch.utils.checkpoint`) are thus not seen twice.
    """

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

    def forward(self, x_BTD: Tensor, cached_BTC: Tensor, rotation: Rotation, mask_B1TT: Tensor) -> Tensor:
        """Attention over whole sequences; `mask_B1TT` is 0 where a pair is allowed and -inf elsewhere."""
        raise NotImplementedError

    def decode(self, x_BD: Tensor, cache_BSC: Tensor, rotation: Rotation, mask_B1S: Tensor) -> Tensor:
        """Attention of one new token a sequence over cached ones, which include its own."""
        raise NotImplementedError

    def attend(self, q_BTHd: Tensor, k_BTHd: Tensor, v_BTHv: Tensor, mask_B1TT: Tensor) -> Tensor:
        """softmax(q·k + mask) · v with `q` already scaled, [B, T, H·v]; notes the largest logits."""
        q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (q_BTHd, k_BTHd, v_BTHv))
        out_NTv, max_logit_H = BlockedAttention.apply(q, k, v, mask_B1TT, self.heads, self.observing)
        if self.observing:
            torch.maximum(self.max_logit_H, max_logit_H, out=self.max_logit_H)
        return out_NTv.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)


class BlockedAttention(torch.autograd.Function):
    """Attention in blocks of queries, with its gradient; N = B·H sequences of T tokens.

    The gradient is written out because autograd's would add up a full-sized gradient of keys and values for every
    block. With P = softmax(q kᵀ + mask) and o = P v: dv = Pᵀ do, dP = do vᵀ, dS = P ∘ (dP - rowsum(dP ∘ P)),
    dq = dS k, dk = dSᵀ q.
    """

    @staticmethod
    def forward(
        ctx: Any, q_NTd: Tensor, k_NTd: Tensor, v_NTv: Tensor, mask_B1TT: Tensor, heads: int, observing: bool
    ) -> tuple[Tensor, Tensor]:
        """The output [N, T, v] and, if `observing`, each head's largest logit [H] (else -inf)."""
        T, weights, outs = q_NTd.shape[1], [], []
        max_logit_H = q_NTd.new_full((heads,), -torch.inf, dtype=torch.float32)
        for start in range(0, T, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, T)
            logits_NQS = torch.bmm(q_NTd[:, start:end], k_NTd[:, :end].mT)
            logits_BHQS = logits_NQS.unflatten(0, (-1, heads)).add_(mask_B1TT[:, :, start:end, :end])
            if observing:
                max_logit_H = torch.maximum(max_logit_H, logits_BHQS.amax((0, 2, 3)))
            weights.append(logits_NQS.softmax(dim=-1, dtype=torch.float32).to(v_NTv.dtype))
            outs.append(torch.bmm(weights[-1], v_NTv[:, :end]))
        ctx.save_for_backward(q_NTd, k_NTd, v_NTv, *weights)
        ctx.mark_non_differentiable(max_logit_H)
        return torch.cat(outs, dim=1), max_logit_H

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NTv: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        q_NTd, k_NTd, v_NTv, *weights = ctx.saved_tensors
        grad_q, grad_k, grad_v = [], torch.zeros_like(k_NTd), torch.zeros_like(v_NTv)
        for start, weights_NQS in zip(range(0, q_NTd.shape[1], QUERY_BLOCK), weights, strict=True):
            end = start + weights_NQS.shape[1]
            grad_NQv = grad_NTv[:, start:end]
            grad_v[:, :end].baddbmm_(weights_NQS.mT, grad_NQv)
            grad_P = torch.bmm(grad_NQv, v_NTv[:, :end].mT)
            grad_S = torch.ops.aten._softmax_backward_data(grad_P, weights_NQS, -1, grad_P.dtype)
            grad_q.append(torch.bmm(grad_S, k_NTd[:, :end]))
            grad_k[:, :end].baddbmm_(grad_S.mT, q_NTd[:, start:end])
        return torch.cat(grad_q, dim=1), grad_k, grad_v, None, None, None
