"""Attention by a vendor's flash kernel, which gives the log-sum-exp of the logits but not the largest (QK-Clip's S).

    largest ≤ log Σ_s exp(logit(t, s)) ≤ largest + ln(keys)

A head whose log-sum-exp is at most τ everywhere has no logit above τ: QK-Clip leaves it alone, and its largest logit
need not be known. The others get a pass of their own over queries and keys. Its kernel is given no blocks for the heads
that do not need it, so nothing here waits for the GPU. In steps whose largest logits are logged, τ is -inf: all are
exact. A bound is never passed off as a largest logit.

torch's `varlen_attn` runs FlashAttention 2, or what `torch.nn.attention.activate_flash_attention_impl` has chosen. In
torch's deterministic mode, which stages switch on, its backward pass repeats. Never run on a GPU.

Shapes: B rows, T queries and keys of a row, N = B·T tokens, H heads, D documents, Q blocks of queries, K of keys,
d width of queries and keys, v of values, w the wider of the two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from k2core.ops.reach import BRANCH, Reach

WIDTHS = frozenset({(192, 128)})
"""(d, v) that go to the flash kernel. K2's do because FlexAttention rounds 192 up to 256: its backward pass took a
quarter of the prototype's time, at 105 TFLOP/s. At (96, 64) it reached 280, which FlashAttention 2 with padded values
is not known to beat. `python -m benchmarks gpu` measures both ways at both widths."""
TYPES = (torch.bfloat16, torch.float16)
"""What flash kernels compute in."""
SLACK = 1e-3
"""Share of τ by which a bound must stay below it: far more than two kernels round differently."""


def documents(reach: Reach, rows: int, T: int, device: torch.device) -> Tensor | None:
    """Where each document begins among the N tokens, then N; int32, [D + 1]. Waits for the device.

    None where a query sees more than its own document up to itself: branches, columns of a shared row, a document in
    several parts.
    """
    return reach.once("documents", lambda: _documents(reach, rows, T, device))


def _documents(reach: Reach, rows: int, T: int, device: torch.device) -> Tensor | None:
    if reach.runs != [(0, T)]:
        return None
    begins_BT = torch.zeros(rows, T, dtype=torch.bool, device=device)
    begins_BT[:, 0] = True
    if reach.segments_BT is not None:
        steps_BT = reach.segments_BT.diff(dim=1)
        if not bool((steps_BT >= 0).all() & (reach.segments_BT < BRANCH).all()):
            return None
        begins_BT[:, 1:] = steps_BT > 0
    end = torch.tensor([rows * T], device=device)
    starts_D = torch.cat([begins_BT.flatten().nonzero()[:, 0], end]).int()
    torch._dynamo.maybe_mark_dynamic(starts_D, 0)  # another number of documents needs no other code
    return starts_D


def meant_for(widths: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether heads of these widths d and v go to the flash kernel."""
    return widths in WIDTHS and dtype in TYPES


def attend(q_BTHd: Tensor, k_BTHd: Tensor, v_BTHv: Tensor, starts_D: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The heads' results [B, T, H, v], and the largest log-sum-exp of each head [H], fp32, without gradient."""
    B, T, _, v = v_BTHv.shape
    wide = max(q_BTHd.shape[-1], v)
    q_NHw, k_NHw, v_NHw = (F.pad(x, (0, wide - x.shape[-1])).flatten(0, 1) for x in (q_BTHd, k_BTHd, v_BTHv))
    out_NHw, lse_HN = kernel(q_NHw, k_NHw, v_NHw, starts_D, T, scale)
    return out_NHw[..., :v].unflatten(0, (B, T)), lse_HN.detach().amax(1)


def kernel(
    q_NHw: Tensor, k_NHw: Tensor, v_NHw: Tensor, starts_D: Tensor, longest: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Causal attention within documents of at most `longest` tokens: out [N, H, w], log-sum-exp [H, N]."""
    out, lse = varlen_attn(
        q_NHw, k_NHw, v_NHw, starts_D, starts_D, longest, longest, return_aux=AuxRequest(lse=True), scale=scale,
        window_size=(-1, 0),
    )  # fmt: skip
    return out, lse


def may_exceed(bound_H: Tensor, above: Tensor) -> Tensor:
    """Heads that may have a logit above `above` [], by their largest log-sum-exp."""
    return bound_H > above - SLACK * above.abs()


def only(mask: BlockMask, wanted_H: Tensor) -> BlockMask:
    """`mask` without a block for the heads that are not wanted: FlexAttention's kernel then does nothing for them."""

    def lists(counts_B1Q: Tensor, indices_B1QK: Tensor) -> tuple[Tensor, Tensor]:
        indices_BHQK = indices_B1QK.expand(-1, len(wanted_H), -1, -1).contiguous()
        return counts_B1Q * wanted_H.int()[:, None], indices_BHQK

    full: tuple[Tensor | None, Tensor | None] = (None, None)
    if mask.full_kv_num_blocks is not None and mask.full_kv_indices is not None:
        full = lists(mask.full_kv_num_blocks, mask.full_kv_indices)
    # The last four are for the backward pass, which there is none of.
    return BlockMask(
        mask.seq_lengths, *lists(mask.kv_num_blocks, mask.kv_indices), *full, None, None, None, None,
        BLOCK_SIZE=mask.BLOCK_SIZE, mask_mod=mask.mask_mod,
    )  # fmt: skip
