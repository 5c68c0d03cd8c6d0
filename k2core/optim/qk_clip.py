"""QK-Clip: scale the query and key weights of heads whose attention logits grew past a threshold (K2 §2.1, Alg. 1).

The largest logit S of a head in this step's batch gives γ = min(1, τ / S). A logit is a sum of a part without position
(query · key of the head) and a rotary part (query of the head · key shared by all heads). The first is scaled by √γ on
each side. In the second only the query is scaled, by γ, so that other heads do not change. This multiplies every logit
of the head by γ. Plain multi-head attention shares no key: all of the head's query and key rows are scaled by √γ.
Values, the shared rotary key and heads below τ stay as they are.

Shapes: H heads, n head width without position, r rotary head width, v head width of the values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core.model.attention import Attention
from k2core.model.mha import MultiHeadAttention
from k2core.model.mla import MultiHeadLatentAttention
from k2core.optim.sharding import scale_rows


def clip_factors(max_logits: Tensor, threshold: float) -> Tensor:
    """γ for each largest logit: 1 exactly where it is not above `threshold` (S ≤ 0, and -inf if nothing was seen)."""
    clipped = max_logits > threshold
    return torch.where(clipped, threshold / torch.where(clipped, max_logits, threshold), 1.0)


@torch.no_grad()
def qk_clip(attention: Attention, threshold: float) -> Tensor:
    """Clip one layer's heads in place and reset their maxima; returns γ of each head (`clip_factors`)."""
    gamma_H = clip_factors(attention.max_logit_H, threshold)
    if bool((attention.max_logit_H > threshold).any()):
        _scale(attention, gamma_H)
    attention.max_logit_H.fill_(-torch.inf)
    return gamma_H


def _scale(attention: Attention, gamma_H: Tensor) -> None:
    """Multiply every logit of each head by its γ, through the query and key weights."""
    gamma_H1 = gamma_H[:, None]
    if isinstance(attention, MultiHeadAttention):
        for weight in (attention.q_proj.weight, attention.k_proj.weight):
            scale_rows(weight, gamma_H.sqrt().repeat_interleave(weight.shape[0] // attention.heads))
    elif isinstance(attention, MultiHeadLatentAttention):
        nope_Hn = gamma_H1.sqrt().expand(-1, attention.nope)
        rope_Hr, value_Hv = gamma_H1.expand(-1, attention.rope), torch.ones_like(gamma_H1).expand(-1, attention.value)
        scale_rows(attention.q_b_proj.weight, torch.cat([nope_Hn, rope_Hr], dim=1).flatten())
        scale_rows(attention.kv_b_proj.weight, torch.cat([nope_Hn, value_Hv], dim=1).flatten())
    else:
        raise TypeError(f"QK-Clip knows no {type(attention).__name__}: say here which of its rows make the logits")
