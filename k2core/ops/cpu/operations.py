"""The operations of the backend `cpu`; the reference computes what it lacks or refuses.

Signatures and formulas are in `k2core/ops/__init__.py`.

Shapes: B sequences, N tokens, T positions, S key positions, V vocabulary, D hidden width, H heads, E experts, K experts
per token, F inner width of a feed-forward, M visits of tokens to experts, n head width without position, r rotary head
width, v head width of the values, d = n + r, e = n + v.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from k2core.ops.cpu import autograd
from k2core.ops.cpu.autograd import newton_schulz, sample
from k2core.ops.cpu.build import library
from k2core.ops.cpu.decoding import Decoder as packed_decoder
from k2core.ops.reach import Reach

__all__ = [
    "accepts", "grouped_linear", "head_loss", "latent_attention", "linear", "newton_schulz", "packed_decoder",
    "rms_norm", "routed_experts", "sample", "swiglu", "token_losses",
]  # fmt: skip

PLAIN = (Tensor, nn.Parameter)
QUERY_BLOCK = 128
"""Queries per search for their first key, where rows are packed."""


def accepts(*tensors: Tensor) -> bool:
    """Whether all are plain fp32 tensors on the CPU, and the kernels could be built.

    Raises:
        RecipeError: they could not, and the recipe insists on them.
    """
    for tensor in tensors:
        if type(tensor) not in PLAIN or tensor.dtype is not torch.float32 or not tensor.is_cpu:
            return False
    return library() is not None


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return autograd.RMSNorm.apply(x, weight_D, eps)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    rows = x.flatten(0, -2)
    ends = torch.tensor([len(rows)], dtype=torch.int32)
    return autograd.Linear.apply(rows, ends, weight[None]).unflatten(0, x.shape[:-1])


def grouped_linear(x_MD: Tensor, weights_EFD: Tensor, ends_E: Tensor) -> Tensor:
    return autograd.Linear.apply(x_MD, ends_E, weights_EFD)


def swiglu(gate_up: Tensor) -> Tensor:
    return autograd.SwiGLU.apply(gate_up.flatten(0, -2)).unflatten(0, gate_up.shape[:-1])


def routed_experts(
    x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    place_NK, token_M, ends_E = autograd.sort_visits(experts_NK, len(down_EDF))
    sorted_MD = autograd.Gather.apply(x_ND, token_M, place_NK)
    inner_MF = autograd.SwiGLU.apply(autograd.Linear.apply(sorted_MD, ends_E, gate_up_E2FD.flatten(1, 2)))
    return autograd.Combine.apply(autograd.Linear.apply(inner_MF, ends_E, down_EDF), place_NK, weights_NK)


def latent_attention(
    q_BTHd: Tensor, kv_BSHe: Tensor, shared_BSr: Tensor, rotation: tuple[Tensor, Tensor], reach: Reach, scale: float
) -> tuple[Tensor, Tensor]:
    seen = reach.once("cpu", lambda: _seen(reach))
    return autograd.Attention.apply(q_BTHd, kv_BSHe, shared_BSr, *rotation, *seen, scale)


def _seen(reach: Reach) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Blocks and segments as the kernel reads them."""
    blocks = torch.tensor(reach.blocks(QUERY_BLOCK))
    if reach.segments_BT is None or reach.segments_BS is None:
        return blocks, None, None
    queries, keys = (part.to(torch.int32).contiguous() for part in (reach.segments_BT, reach.segments_BS))
    return blocks, queries, keys


def token_losses(logits_NV: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    return autograd.CrossEntropy.apply(logits_NV, targets_N, ignored)


def head_loss(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    wanted_N = targets_N != ignored
    logits_MV = linear(hidden_ND[wanted_N], weight_VD)
    return token_losses(logits_MV, targets_N[wanted_N], ignored).sum()
