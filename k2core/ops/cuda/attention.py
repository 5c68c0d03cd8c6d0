"""Attention by FlexAttention, which yields the largest scores that QK-Clip needs along with the result.

At the widths that `flash.py` names, rows of plain documents go to a flash kernel instead.

Shapes: B sequences, T queries, S keys, H heads, D documents, r rotary head width, n head width without position, v
head width of the values, d = n + r, e = n + v.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from k2core.machine.compiler import compiled
from k2core.ops import reference
from k2core.ops.cuda import flash
from k2core.ops.reach import BRANCH, Reach
from k2core.ops.reference import rotate

OPTIONS: dict[tuple[int, int], dict[str, Any]] = {}
"""(d, v) → FlexAttention's `kernel_options`; torch's own where nothing is said. `python -m benchmarks gpu` measures
candidates at the widths of gpu.md's model and of K2 and prints the fastest. None has been measured on a GPU yet."""

NARROWEST = 16
"""Head width below which FlexAttention has no kernel."""

_compiled = compiled(flex_attention)


def latent(
    q_BTHd: Tensor, kv_BSHe: Tensor, shared_BSr: Tensor, rotation: tuple[Tensor, Tensor], reach: Reach, scale: float
) -> tuple[Tensor, Tensor]:
    """`ops.latent_attention`."""
    rope, heads = shared_BSr.shape[-1], q_BTHd.shape[2]
    nope = q_BTHd.shape[-1] - rope
    q_nope, q_rope = q_BTHd.split([nope, rope], dim=-1)
    cos, sin = rotation
    q_BTHd = torch.cat([q_nope, rotate(q_rope, (cos.unsqueeze(-2), sin.unsqueeze(-2)))], dim=-1)
    k_nope, v_BSHv = kv_BSHe.split([nope, kv_BSHe.shape[-1] - nope], dim=-1)
    k_BSHd = torch.cat([k_nope, shared_BSr.unsqueeze(-2).expand(-1, -1, heads, -1)], dim=-1)
    return plain(q_BTHd, k_BSHd, v_BSHv, reach, scale)


def plain(q_BTHd: Tensor, k_BSHd: Tensor, v_BSHv: Tensor, reach: Reach, scale: float) -> tuple[Tensor, Tensor]:
    """`ops.attention` of queries that are not scaled yet."""
    if min(q_BTHd.shape[-1], v_BSHv.shape[-1]) < NARROWEST:
        return reference.attention(q_BTHd * scale, k_BSHd, v_BSHv, reach)
    if flash.meant_for((q_BTHd.shape[-1], v_BSHv.shape[-1]), q_BTHd.dtype):
        starts_D = flash.documents(reach, len(q_BTHd), q_BTHd.shape[1], q_BTHd.device)
        if starts_D is not None:
            return _by_flash(q_BTHd, k_BSHd, v_BSHv, starts_D, reach, scale)
    q, k, v = (part.transpose(1, 2) for part in (q_BTHd, k_BSHd, v_BSHv))
    out_BHTv, max_BHT = scores(q, k, v, mask_of(reach, q.device), scale)
    return out_BHTv.transpose(1, 2), max_BHT.amax(-1)


def _by_flash(
    q_BTHd: Tensor, k_BSHd: Tensor, v_BSHv: Tensor, starts_D: Tensor, reach: Reach, scale: float
) -> tuple[Tensor, Tensor]:
    """`plain` where S = T; largest logits that do not exceed `reach.above` are -inf."""
    out_BTHv, bound_H = flash.attend(q_BTHd, k_BSHd, v_BSHv, starts_D, scale)
    above, device = above_of(reach, q_BTHd.device), q_BTHd.device
    with torch.no_grad():
        mask = flash.only(mask_of(reach, device), flash.may_exceed(bound_H, above))
        q, k = (part.detach().transpose(1, 2) for part in (q_BTHd, k_BSHd))
        largest_BH = scores(q, k, k[..., :NARROWEST], mask, scale)[1].amax(-1)  # some values, as few as there can be
    return out_BTHv, torch.where(largest_BH > above, largest_BH, -torch.inf)


def scores(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSv: Tensor, mask: BlockMask, scale: float) -> tuple[Tensor, Tensor]:
    """The heads' results, and each query's largest score (fp32, without gradient)."""
    compute: Any = _compiled if q_BHTd.is_cuda else flex_attention
    out, aux = compute(
        q_BHTd, k_BHSd, v_BHSv, block_mask=mask, scale=scale, return_aux=AuxRequest(max_scores=True),
        kernel_options=OPTIONS.get((q_BHTd.shape[-1], v_BHSv.shape[-1])),
    )  # fmt: skip
    return out, aux.max_scores


def above_of(reach: Reach, device: torch.device) -> Tensor:
    """`reach.above` [], fp32, where it can change without other code."""
    return reach.once("above", lambda: torch.full((), reach.above, device=device))


def mask_of(reach: Reach, device: torch.device) -> BlockMask:
    """The mask of `reach`, which all layers share."""
    return reach.once("cuda", lambda: _mask(reach, device))


def _mask(reach: Reach, device: torch.device) -> BlockMask:
    columns_T = torch.cat([torch.arange(column, column + length, device=device) for column, length in reach.runs])
    queries_BT, keys_BS = reach.segments_BT, reach.segments_BS
    if queries_BT is None or keys_BS is None:  # then T = S: processes that share rows are given segments
        queries_BT = keys_BS = torch.zeros_like(columns_T)[None]
    (rows, T), S = queries_BT.shape, keys_BS.shape[1]
    if rows == 1:
        queries_T, keys_S = queries_BT[0], keys_BS[0]

        def sees(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
            own, key = queries_T[t], keys_S[s]
            return (columns_T[t] >= s) & ((own == key) | (own % BRANCH == key))

        return create_block_mask(sees, None, None, T, S, device=device)

    def sees_in_its_row(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        own, key = queries_BT[b, t], keys_BS[b, s]
        return (columns_T[t] >= s) & ((own == key) | (own % BRANCH == key))

    return create_block_mask(sees_in_its_row, rows, None, T, S, device=device)
