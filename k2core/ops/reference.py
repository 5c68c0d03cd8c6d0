"""The backend `reference`: every operation in plain torch, on any device and in any type. It defines them.

Signatures and formulas are in `k2core/ops/__init__.py`. To change the model, change these; `tests/ops` then names the
backend that no longer agrees.

Shapes: B sequences (or matrices), N tokens (or columns of a matrix), T positions, S key positions, Q queries per block,
V vocabulary, D hidden width, H heads, E experts, K experts per token, F inner width of a feed-forward, M visits of
tokens to experts (or rows of a matrix), n head width without position, r rotary head width, v head width of the values,
d = n + r, e = n + v.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from k2core.ops.decoding import DecoderWeights
from k2core.ops.reach import QUERY_BLOCK, Reach


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return (weight_D * F.rms_norm(x.float(), weight_D.shape, eps=eps)).to(x.dtype)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight)


def grouped_linear(x_MD: Tensor, weights_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """`grouped_mm` was the fastest way on two cores in fp32 (2,048 tokens, 8 experts, forward and backward: 12 ms; one
    product per expert on sorted tokens 14 ms, a loop that gathers 15 ms). It needs rows of a multiple of 16 bytes.
    """
    return F.grouped_mm(x_MD, weights_EFD.mT, offs=ends_E)


def swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def routed_experts(
    x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    chosen = experts_NK.flatten()
    order = chosen.argsort(stable=True)  # (token, choice) pairs, expert by expert
    ends_E = torch.bincount(chosen, minlength=len(down_EDF)).cumsum(0).to(torch.int32)
    tokens = order // experts_NK.shape[1]
    inner_MF = swiglu(grouped_linear(x_ND.index_select(0, tokens), gate_up_E2FD.flatten(1, 2), ends_E))
    out_MD = grouped_linear(inner_MF, down_EDF, ends_E)
    out_MD = out_MD * weights_NK.flatten().index_select(0, order).unsqueeze(1).to(out_MD.dtype)
    return torch.zeros_like(x_ND).index_add(0, tokens, out_MD)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def prepare(reach: Reach, x_BTD: Tensor, widths: tuple[int, int]) -> None:
    """Nothing: blocks are made when the first layer asks."""


def latent_attention(
    q_BTHd: Tensor, kv_BSHe: Tensor, shared_BSr: Tensor, rotation: tuple[Tensor, Tensor], reach: Reach, scale: float
) -> tuple[Tensor, Tensor]:
    rope = shared_BSr.shape[-1]
    nope = q_BTHd.shape[-1] - rope
    q_nope, q_rope = (q_BTHd * scale).split([nope, rope], dim=-1)
    cos, sin = rotation
    q_BTHd = torch.cat([q_nope, rotate(q_rope, (cos.unsqueeze(-2), sin.unsqueeze(-2)))], dim=-1)
    k_nope, v_BSHv = kv_BSHe.split([nope, kv_BSHe.shape[-1] - nope], dim=-1)
    k_BSHd = torch.cat([k_nope, shared_BSr.unsqueeze(-2).expand(-1, -1, q_BTHd.shape[-2], -1)], dim=-1)
    return attention(q_BTHd, k_BSHd, v_BSHv, reach)


def attention(q_BTHd: Tensor, k_BSHd: Tensor, v_BSHv: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    q, k, v = (part.transpose(1, 2) for part in (q_BTHd, k_BSHd, v_BSHv))
    results, largest = [], []
    for block in reach.blocks(QUERY_BLOCK):
        start, end, first, last = block
        hidden_BQS = reach.hidden(block, q.device)
        mask_B1QS = q.new_zeros(hidden_BQS.shape).masked_fill(hidden_BQS, -torch.inf)[:, None]
        logits_BHQS = q[:, :, start:end] @ k[:, :, first:last].transpose(-1, -2) + mask_B1QS
        largest.append(logits_BHQS.detach().amax((2, 3)))
        results.append(logits_BHQS.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v[:, :, first:last])
    return torch.cat(results, dim=2).transpose(1, 2), torch.stack(largest).amax(0)


def token_losses(logits_NV: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    return F.cross_entropy(logits_NV.float(), targets_N, ignore_index=ignored, reduction="none")


def head_loss(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    wanted_N = targets_N != ignored
    logits_MV = linear(hidden_ND[wanted_N], weight_VD.to(hidden_ND.dtype))
    return token_losses(logits_MV, targets_N[wanted_N], ignored).sum()


def sample(logits_BV: Tensor, temperature: float, drawn_B: Tensor) -> tuple[Tensor, Tensor]:
    log_probs_BV = (logits_BV.float() / (temperature or 1.0)).log_softmax(dim=-1)
    if temperature == 0:
        tokens_B1 = logits_BV.argmax(dim=-1, keepdim=True)
    else:
        cumulative_BV = log_probs_BV.exp().cumsum(dim=-1)
        # of the total, looked up from the left: never beyond the end, never a token of probability 0
        tokens_B1 = torch.searchsorted(cumulative_BV, drawn_B[:, None] * cumulative_BV[:, -1:])
    return tokens_B1[:, 0], log_probs_BV.gather(1, tokens_B1)[:, 0]


def newton_schulz(matrices_BMN: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    a, b, c = coefficients
    x = matrices_BMN.to(torch.bfloat16 if matrices_BMN.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return (x.mT if tall else x).to(matrices_BMN.dtype)


def packed_decoder(weights: DecoderWeights) -> None:
    """None: nothing is packed, and the step is `Transformer.decode`."""
    return None
