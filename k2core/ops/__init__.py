"""The operations that model, optimiser and sampler are made of: one function each, whichever backend computes it.

Each function is as coarse as the coarsest operation that any backend fuses. Its formula here and plain torch in
`reference.py` define it; `backend.py` chooses the backend that computes it. Only this room knows the backends; every
other room calls these functions.

Names of tensors end in their axes.
Shapes: B sequences (or matrices), N tokens (or columns of a matrix), T queries of a forward pass, S keys of a row, V
vocabulary, D last axis, H heads, E experts, K experts per token, F inner width of a feed-forward, M visits sorted by
expert (or rows of a matrix), n head width without position, r rotary head width, v head width of the values, d = n + r,
e = n + v.

Matrices are used in the type of what they multiply: fp32 weights serve bf16 activations, and get fp32 gradients.
"""

from __future__ import annotations

from torch import Tensor

from k2core.ops.backend import flash_for, implementation, using
from k2core.ops.decoding import DecoderWeights, LayerWeights, PackedDecoder, RoutedWeights
from k2core.ops.reach import BRANCH, MOST_BRANCHES, QUERY_BLOCK, Reach

__all__ = [
    "BRANCH", "MOST_BRANCHES", "QUERY_BLOCK",
    "DecoderWeights", "LayerWeights", "PackedDecoder", "Reach", "Rotation", "RoutedWeights", "attention", "flash_for",
    "grouped_linear", "head_loss", "latent_attention", "linear", "newton_schulz", "packed_decoder", "prepare",
    "rms_norm", "rotate", "routed_experts", "sample", "swiglu", "token_losses", "using",
]  # fmt: skip

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of each position's rotated pairs."""


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axis of `x` [..., D], computed in fp32, in the type of `x`."""
    return implementation("rms_norm", x, weight_D)(x, weight_D, eps)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ, [..., out], of `x` [..., in] and `weight` [out, in]."""
    weight = weight.to(x.dtype)
    return implementation("linear", x, weight)(x, weight)


def grouped_linear(x_MD: Tensor, weights_EFD: Tensor, ends_E: Tensor) -> Tensor:
    """x Wᵀ, [M, F], with the weights of layer e for the rows from `ends_E[e - 1]` to `ends_E[e]` (int32)."""
    weights_EFD = weights_EFD.to(x_MD.dtype)
    return implementation("grouped_linear", x_MD, weights_EFD)(x_MD, weights_EFD, ends_E)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up, [..., F], of `gate_up` [..., 2F]: all gates, then all ups."""
    return implementation("swiglu", gate_up)(gate_up)


def routed_experts(
    x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    """Σ_k weights[n, k] · expert_{experts[n, k]}(x[n]), [N, D]; expert e is x ↦ down_e (silu(gate_e x) · up_e x).

    Sorts the visits by expert, computes and adds up. No token is dropped.
    """
    gate_up_E2FD, down_EDF = gate_up_E2FD.to(x_ND.dtype), down_EDF.to(x_ND.dtype)
    compute = implementation("routed_experts", x_ND, weights_NK, gate_up_E2FD, down_EDF)
    return compute(x_ND, experts_NK, weights_NK, gate_up_E2FD, down_EDF)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the pairs (0, 1), (2, 3), … of the last axis of `x` [..., r]: (x cos - y sin, y cos + x sin), in its type.

    Cosines and sines [..., r / 2] broadcast against the other axes. The result holds the pairs' first members, then the
    second ones: queries and keys are permuted alike, so their products are those of the interleaved layout.
    """
    return implementation("rotate", x, *rotation)(x, rotation)


def prepare(reach: Reach, x_BTD: Tensor, widths: tuple[int, int]) -> None:
    """Work out what all layers share of `reach`, before the first of them: their code may be compiled, this is not.

    Args:
        widths: of a head's queries and of its values, d and v.
    """
    implementation("prepare", x_BTD)(reach, x_BTD, widths)


def latent_attention(
    q_BTHd: Tensor, kv_BSHe: Tensor, shared_BSr: Tensor, rotation: Rotation, reach: Reach, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention in which all heads share the rotated part of their keys (`k2core.model.mla`): out_BTHv, largest_BH.

        logit_h(t, s) = scale · (q_h(t)[:n] · kv_h(s)[:n] + R q_h(t)[n:] · shared(s))
        out_h(t) = Σ_s softmax_s(logit_h(t, s)) · kv_h(s)[n:]         over the keys s that query t sees

    Args:
        q_BTHd: queries, neither scaled nor rotated.
        kv_BSHe: each head's keys without position, then its values, e = n + v.
        shared_BSr: the shared keys, already rotated.
        rotation: R of the queries, [1 or B, T, r / 2] each.

    Returns:
        The heads' results, and each sequence's and head's largest logit (without gradient), which QK-Clip needs; -inf
        may stand for one that does not exceed `reach.above`.
    """
    compute = implementation("latent_attention", q_BTHd, kv_BSHe, shared_BSr, *rotation)
    return compute(q_BTHd, kv_BSHe, shared_BSr, rotation, reach, scale)


def attention(q_BTHd: Tensor, k_BSHd: Tensor, v_BSHv: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    """softmax(q · k) · v per head, over the keys that each query sees; returns the same as `latent_attention`.

    Queries are scaled; queries and keys are rotated.
    """
    return implementation("attention", q_BTHd, k_BSHd, v_BSHv)(q_BTHd, k_BSHd, v_BSHv, reach)


def token_losses(logits_NV: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    """log Σ_v exp(logits[n, v]) - logits[n, targets[n]] in nats, [N], fp32; 0 where the target is `ignored`."""
    return implementation("token_losses", logits_NV)(logits_NV, targets_N, ignored)


def head_loss(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignored: int) -> Tensor:
    """Σ `token_losses` of the logits `linear(hidden, weight)` where there is a target, a scalar, fp32.

    Rows without a target cost nothing, or a backend never holds all logits at once: that is its choice.
    """
    return implementation("head_loss", hidden_ND, weight_VD)(hidden_ND, weight_VD, targets_N, ignored)


def sample(logits_BV: Tensor, temperature: float, drawn_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row and its log-probability, both [B].

    The token is the first at which the cumulative distribution softmax(logits / temperature) reaches `drawn_B`, numbers
    in (0, 1]; at temperature 0 it is the most likely one, and log-probabilities are those at temperature 1.
    """
    return implementation("sample", logits_BV, drawn_B)(logits_BV, temperature, drawn_B)


def newton_schulz(matrices_BMN: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """X ← a X + (b A + c A²) X with A = X Xᵀ, `steps` times from X / |X|, of each matrix; tall ones are transposed.

    fp32 on a CPU, where bf16 without hardware support is tens of times slower; bf16 on a GPU.
    """
    return implementation("newton_schulz", matrices_BMN)(matrices_BMN, steps, coefficients)


def packed_decoder(weights: DecoderWeights) -> PackedDecoder | None:
    """A decoding step of a whole model as one call, on weights laid out for it now.

    None where no backend has one for these tensors: the step is then `Transformer.decode`, which defines it.
    """
    return implementation("packed_decoder", *weights.tensors())(weights)
