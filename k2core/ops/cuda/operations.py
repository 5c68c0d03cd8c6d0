"""The operations of the backend `cuda`; the reference computes what it lacks or refuses.

Signatures and formulas are in `k2core/ops/__init__.py`.

Shapes: B sequences, N tokens, T queries, S keys, V vocabulary, D hidden width, H heads, E experts, K experts per token,
F inner width of a feed-forward, M visits sorted by expert, W numbers of a block of the vocabulary, r rotary head width,
v head width of the values, d width of a head's queries, e of its keys without position and values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from k2core.ops import reference
from k2core.ops.cuda.experts import Combine, Gather, sort_visits
from k2core.ops.reach import Reach

__all__ = ["accepts", "attention", "head_loss", "latent_attention", "prepare", "routed_experts", "sample"]

PLAIN = (Tensor, nn.Parameter)
SUMMED = 256
"""Numbers that `sample` adds up by one row of a product."""


def accepts(*tensors: Tensor) -> bool:
    """Whether all are plain floating-point tensors on a GPU."""
    return all(type(tensor) in PLAIN and tensor.is_cuda and tensor.is_floating_point() for tensor in tensors)


def routed_experts(
    x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    order_M, token_M, place_NK, ends_E = sort_visits(experts_NK, len(down_EDF))
    sorted_MD = Gather.apply(x_ND, token_M, place_NK)
    inner_MF = reference.swiglu(F.grouped_mm(sorted_MD, gate_up_E2FD.flatten(1, 2).mT, offs=ends_E))
    return Combine.apply(F.grouped_mm(inner_MF, down_EDF.mT, offs=ends_E), weights_NK, order_M, token_M, place_NK)


# What compiles is imported when it is needed: the compiler takes seconds, which stages on a CPU would wait for.


def prepare(reach: Reach, x_BTD: Tensor, widths: tuple[int, int]) -> None:
    from k2core.ops.cuda import attention, flash

    attention.mask_of(reach, x_BTD.device)
    if flash.meant_for(widths, x_BTD.dtype):  # else nothing here waits for the GPU
        flash.documents(reach, len(x_BTD), x_BTD.shape[1], x_BTD.device)
        attention.above_of(reach, x_BTD.device)


def latent_attention(
    q_BTHd: Tensor, kv_BSHe: Tensor, shared_BSr: Tensor, rotation: tuple[Tensor, Tensor], reach: Reach, scale: float
) -> tuple[Tensor, Tensor]:
    from k2core.ops.cuda import attention

    return attention.latent(q_BTHd, kv_BSHe, shared_BSr, rotation, reach, scale)


def attention(q_BTHd: Tensor, k_BSHd: Tensor, v_BSHv: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    from k2core.ops.cuda import attention

    return attention.plain(q_BTHd, k_BSHd, v_BSHv, reach, scale=1.0)


def head_loss(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    from k2core.ops.cuda.head import HeadLoss

    return HeadLoss.apply(hidden_ND, weight_VD, targets_N, ignored)


def sample(logits_BV: Tensor, temperature: float, drawn_B: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's with sums by products: `cumsum` has no order on a GPU, which torch refuses as not repeatable."""
    log_probs_BV = (logits_BV.float() / (temperature or 1.0)).log_softmax(dim=-1)
    if temperature == 0:
        tokens_B1 = logits_BV.argmax(dim=-1, keepdim=True)
    else:
        cumulative_BV = cumulative(log_probs_BV.exp())
        tokens_B1 = torch.searchsorted(cumulative_BV, drawn_B[:, None] * cumulative_BV[:, -1:])
    return tokens_B1[:, 0], log_probs_BV.gather(1, tokens_B1)[:, 0]


def cumulative(x_BV: Tensor) -> Tensor:
    """Sums from the left of numbers that are not negative: within blocks, and of the blocks before.

    Each is rounded on its own, yet they never fall, and rise at no zero: a token of probability 0 is never drawn.
    """
    V = x_BV.shape[1]
    blocks_BKW = F.pad(x_BV, (0, -V % SUMMED)).unflatten(1, (-1, SUMMED))
    K = blocks_BKW.shape[1]
    ones_WW, before_KK = (torch.ones(n, n, device=x_BV.device).triu(d) for n, d in ((SUMMED, 0), (K, 1)))
    within_BKW = blocks_BKW @ ones_WW
    sums_BV = (within_BKW + (within_BKW[..., -1] @ before_KK)[..., None]).flatten(1)[:, :V]
    return torch.where(x_BV > 0, sums_BV, 0.0).cummax(dim=1).values
