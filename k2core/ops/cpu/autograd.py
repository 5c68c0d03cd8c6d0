"""The kernels as differentiable functions, on tensors that `operations.accepts`.

Floating-point tensors are fp32 on the CPU. A kernel trusts the shapes that it is given, so they are checked here.

Shapes: B sequences (or matrices), N tokens (or columns of a matrix), V vocabulary, E experts, K experts per token, M
visits of tokens to experts (or rows of a matrix).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from k2core.ops.cpu.build import call


class RMSNorm(torch.autograd.Function):
    """`apply(x [..., D], weight [D], eps)`: x / rms(x) · weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = _rows(x)
        N, D = rows.shape
        _check(weight.shape == (D,), "a norm's weight", weight, f"vectors of {D}")
        y, scale = torch.empty(x.shape), torch.empty(N)
        call("rms_norm", rows, rows.stride(0), weight, float(eps), y, scale, N, D)
        ctx.save_for_backward(rows, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, scale = ctx.saved_tensors
        N, D = rows.shape
        dx, dweight = torch.empty(dy.shape), torch.zeros(torch.get_num_threads(), D)
        call("rms_norm_backward", dy.contiguous(), rows, rows.stride(0), weight, scale, dx, dweight, N, D)
        return dx, dweight.sum(0), None


class Linear(torch.autograd.Function):
    """`apply(x [N, in], ends [E], weights [E, out, in])`: y = x Wᵀ, [N, out]; rows up to `ends[e]` are layer e's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Tensor, weights: Tensor) -> Tensor:
        x, weights = x.contiguous(), weights.contiguous()
        E, width, depth = weights.shape
        _check(x.shape[1] == depth, "a linear layer's weights", weights, f"an input of {tuple(x.shape)}")
        fits = ends.dtype == torch.int32 and ends.shape == (E,) and int(ends[-1]) == len(x)
        _check(fits, "the ends", ends, f"{len(x)} rows")
        y = torch.empty(len(x), width)
        call("linear", x, ends, E, weights, y, depth, width, 0)
        ctx.save_for_backward(x, ends, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, ends, weights = ctx.saved_tensors
        E, width, depth = weights.shape
        dy, dx, dweights = dy.contiguous(), None, None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            call("linear", dy, ends, E, weights, dx, depth, width, 1)
        if ctx.needs_input_grad[2]:
            dweights = torch.empty_like(weights)
            call("linear_weights", dy, x, ends, E, dweights, depth, width)
        return dx, None, dweights


class SwiGLU(torch.autograd.Function):
    """`apply(gate_up [N, 2 F])`: silu(gate) · up, [N, F]."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        N, F = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(N, F)
        call("swiglu", gate_up, out, N, F)
        ctx.save_for_backward(gate_up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        dgate_up = torch.empty_like(gate_up)
        call("swiglu_backward", dout.contiguous(), gate_up, dgate_up, gate_up.shape[0], gate_up.shape[1] // 2)
        return dgate_up


def sort_visits(experts_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """`(place_NK, token_M, ends_E)` of the M = N·K visits sorted by expert: see `experts.c`."""
    N, K = experts_NK.shape
    place_NK = torch.empty(N, K, dtype=torch.long)
    token_M, ends_E = torch.empty(N * K, dtype=torch.long), torch.empty(experts, dtype=torch.int32)
    _check(experts_NK.dtype == torch.long, "the chosen experts", experts_NK, "int64")
    if call("sort_visits", experts_NK.contiguous(), N, K, experts, place_NK, token_M, ends_E):
        raise IndexError(f"a token chose an expert that is not one of the {experts}")
    return place_NK, token_M, ends_E


class Gather(torch.autograd.Function):
    """`apply(x [N, D], token [M], place [N, K])`: the rows of `x` sorted by expert, [M, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, place: Tensor) -> Tensor:
        out = torch.empty(len(token), x.shape[1])
        call("gather", x.contiguous(), token, out, *out.shape)
        ctx.save_for_backward(place)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        dx = torch.empty(len(place), dout.shape[1])
        call("combine", dout.contiguous(), place, None, dx, *place.shape, dout.shape[1])
        return dx, None, None


class Combine(torch.autograd.Function):
    """`apply(y [M, D], place [N, K], weights [N, K])`: each token's weighted sum over its experts, [N, D]."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, place: Tensor, weights: Tensor) -> Tensor:
        y, weights = y.contiguous(), weights.contiguous()
        out = torch.empty(len(place), y.shape[1])
        call("combine", y, place, weights, out, *place.shape, y.shape[1])
        ctx.save_for_backward(y, place, weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        y, place, weights = ctx.saved_tensors
        dy, dweights = torch.empty_like(y), torch.empty_like(weights)
        call("combine_backward", dout.contiguous(), y, place, weights, dy, dweights, *place.shape, y.shape[1])
        return dy, None, dweights


class CrossEntropy(torch.autograd.Function):
    """`apply(logits [N, V], targets [N], ignored)`: the loss of each row, [N]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignored: int) -> Tensor:
        logits, targets = logits.contiguous(), targets.contiguous()
        _check(targets.dtype == torch.long and len(targets) == len(logits), "targets", targets, f"{len(logits)} rows")
        loss, log_sum = torch.empty(len(logits)), torch.empty(len(logits))
        wrong = call("cross_entropy", logits, targets, ignored, loss, log_sum, *logits.shape)
        if wrong:
            raise IndexError(f"{wrong} targets are not tokens: these logits have tokens 0 to {logits.shape[1] - 1}")
        ctx.save_for_backward(logits, targets, log_sum)
        ctx.ignored = ignored
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, log_sum = ctx.saved_tensors
        dlogits = torch.empty_like(logits)
        call(
            "cross_entropy_backward", dloss.contiguous(), logits, targets, ctx.ignored, log_sum, dlogits, *logits.shape
        )  # fmt: skip
        return dlogits, None, None


class Attention(torch.autograd.Function):
    """`apply(queries, keys_values, shared, cos, sin, blocks, query_segments, key_segments, scale)`.

    `Inputs` in `attention.c` describes them; the segments may be None. Returns the heads' results [B, T, H, value]
    and their largest logits [B, H].
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys_values: Tensor, shared: Tensor, cos: Tensor, sin: Tensor, blocks: Tensor,
        query_segments: Tensor | None, key_segments: Tensor | None, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        tensors = (
            queries.contiguous(), keys_values.contiguous(), _rows(shared), cos.contiguous(), sin.contiguous(), blocks,
            query_segments, key_segments,
        )  # fmt: skip
        B, S, rope = shared.shape
        _check(keys_values.shape[:2] == (B, S), "keys and values", keys_values, f"shared keys of {tuple(shared.shape)}")
        for part in (cos, sin):
            _check(part.shape[1:] == (queries.shape[1], rope // 2), "the rotation", part, f"{tuple(queries.shape)}")
        for segments, columns in ((query_segments, queries.shape[1]), (key_segments, S)):
            if segments is not None:
                fits = segments.dtype == torch.int32 and segments.shape in ((1, columns), (B, columns))
                _check(fits, "the segments", segments, f"{B} rows of {columns}")
        inputs = _Inputs.of(scale, *tensors)
        out = torch.empty(inputs.B, inputs.T, inputs.H, inputs.value)
        log_sum, largest = torch.empty(inputs.B, inputs.H, inputs.T), torch.empty(inputs.B, inputs.H)
        call("attention", inputs, out, log_sum, largest)
        ctx.save_for_backward(*tensors, out, log_sum)
        ctx.scale = scale
        ctx.mark_non_differentiable(largest)
        return out, largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, out, log_sum = ctx.saved_tensors
        inputs = _Inputs.of(ctx.scale, *tensors)
        dqueries, dkeys_values = torch.empty_like(tensors[0]), torch.empty_like(tensors[1])
        dshared = torch.empty(inputs.B, inputs.H, inputs.S, inputs.rope)
        call("attention_backward", inputs, dout.contiguous(), out, log_sum, dqueries, dkeys_values, dshared)
        return dqueries, dkeys_values, dshared.sum(1), None, None, None, None, None, None


def sample(logits_BV: Tensor, temperature: float, drawn_B: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row for a number in (0, 1], and its log-probability: see `sample.c`."""
    B, V = logits_BV.shape
    tokens, log_probs = torch.empty(B, dtype=torch.long), torch.empty(B)
    _check(drawn_B.shape == (B,), "the numbers drawn", drawn_B, f"{B} rows of logits")
    if call("sample", logits_BV.contiguous(), float(temperature), drawn_B.contiguous(), tokens, log_probs, B, V):
        raise FloatingPointError("the logits to sample from are not numbers: the model has diverged")
    return tokens, log_probs


def newton_schulz(matrices_BMN: Tensor, steps: int, coefficients: tuple[float, float, float]) -> Tensor:
    """Newton-Schulz's iteration on each matrix, after division by its norm: see `newton_schulz.c`."""
    matrices = matrices_BMN.contiguous().clone()
    B, M, N = matrices.shape
    row, column = (N, 1) if M <= N else (1, N)
    call("newton_schulz", matrices, B, min(M, N), max(M, N), row, column, steps, *coefficients)
    return matrices


class _Inputs(ctypes.Structure):
    """`Inputs` of `attention.c`. Keeps the tensors that it points to."""

    _fields_ = [
        ("queries", ctypes.c_void_p), ("keys_values", ctypes.c_void_p), ("shared", ctypes.c_void_p),
        ("shared_row", ctypes.c_int64), ("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p),
        ("rotation_batch", ctypes.c_int64), ("blocks", ctypes.c_void_p),
        ("query_segments", ctypes.c_void_p), ("key_segments", ctypes.c_void_p),
        ("query_batch", ctypes.c_int64), ("key_batch", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("count", "B", "T", "S", "H", "nope", "rope", "value")),
        ("scale", ctypes.c_float),
    ]  # fmt: skip

    @classmethod
    def of(
        cls, scale: float, queries: Tensor, keys_values: Tensor, shared: Tensor, cos: Tensor, sin: Tensor,
        blocks: Tensor, query_segments: Tensor | None, key_segments: Tensor | None,
    ) -> _Inputs:  # fmt: skip
        B, T, H, width = queries.shape
        rope, S = shared.shape[-1], keys_values.shape[1]
        inputs = cls(
            queries.data_ptr(), keys_values.data_ptr(), shared.data_ptr(), shared.stride(0), cos.data_ptr(),
            sin.data_ptr(), _batch_stride(cos), blocks.data_ptr(),
            *(None if part is None else part.data_ptr() for part in (query_segments, key_segments)),
            *(0 if part is None else _batch_stride(part) for part in (query_segments, key_segments)),
            len(blocks), B, T, S, H, width - rope, rope, keys_values.shape[3] - width + rope, scale,
        )  # fmt: skip
        inputs.kept = queries, keys_values, shared, cos, sin, blocks, query_segments, key_segments
        return inputs


def _batch_stride(part: Tensor) -> int:
    """How far apart sequences are in it: 0 where all share one."""
    return part.stride(0) if len(part) > 1 else 0


def _check(right: bool, what: str, tensor: Tensor, other: str) -> None:
    if not right:
        raise ValueError(f"{what} of shape {tuple(tensor.shape)} and type {tensor.dtype} do not fit {other}")


def _rows(x: Tensor) -> Tensor:
    """`x` [..., D] as [N, D]. Each row is contiguous; rows may lie apart, so a slice of the last axis is not copied."""
    rows = x.flatten(0, -2)
    return rows if rows.stride(1) == 1 else rows.contiguous()
