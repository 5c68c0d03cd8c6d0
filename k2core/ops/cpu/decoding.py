"""A decoding step as one kernel, `decode.c`, with the weights laid out for it.

Shapes: B sequences, V vocabulary, h half the rotary width.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from k2core.ops.cpu.build import call, loaded
from k2core.ops.decoding import DecoderWeights, LayerWeights


class Decoder:
    """A `PackedDecoder`."""

    def __init__(self, weights: DecoderWeights) -> None:
        self.kept: list[Tensor] = []
        w, first = weights, weights.layers[0]
        V, D = w.embedding.shape
        routed = next((layer.routed for layer in w.layers if layer.routed), None)
        E, F = (len(routed.router), routed.down.shape[2]) if routed else (0, 0)
        self.shape = _Shape(
            D, w.heads, w.nope, w.rope, w.value, first.key_norm.shape[0], first.query_norm.shape[0], V, len(w.layers),
            E, w.experts_per_token, F, w.scale, w.eps, w.latent_eps, w.routed_scaling,
        )  # fmt: skip
        self.embedding, self.norm, self.head = self._keep(w.embedding), self._keep(w.norm), self._matrix(w.head)
        self.layers = (_Layer * len(w.layers))(*(self._layer(w, layer) for layer in w.layers))

    def step(self, tokens_B: Tensor, lengths_B: Tensor, caches: list[Tensor], cos_Bh: Tensor, sin_Bh: Tensor) -> Tensor:
        slots = caches[0].shape[1]
        if int(lengths_B.max()) >= slots:
            raise IndexError(f"the cache has {slots} slots per sequence, and one sequence has none left")
        if not 0 <= int(tokens_B.min()) <= int(tokens_B.max()) < self.shape.V:
            raise IndexError(f"a token is not one of 0 to {self.shape.V - 1}")
        for layer, cache in zip(self.layers, caches, strict=True):
            layer.cache = cache.data_ptr()
        logits_BV = torch.empty(len(tokens_B), self.shape.V)
        call(
            "decode", self.shape, self.layers, self.embedding, self.norm, self.head, tokens_B.contiguous(), lengths_B,
            slots, cos_Bh, sin_Bh, len(tokens_B), logits_BV,
        )  # fmt: skip
        return logits_BV

    def _layer(self, model: DecoderWeights, layer: LayerWeights) -> _Layer:
        heads = layer.keys_values.unflatten(0, (model.heads, -1))
        result = _Layer(
            attention_norm=self._keep(layer.attention_norm),
            latents=self._matrix(torch.cat([layer.query_latent, layer.key_latent])),
            query_norm=self._keep(layer.query_norm),
            queries=self._matrix(layer.queries),
            key_norm=self._keep(layer.key_norm),
            absorb=self._matrix(heads[:, : model.nope], across=True),
            values=self._matrix(heads[:, model.nope :]),
            output=self._matrix(layer.output),
            feed_forward_norm=self._keep(layer.feed_forward_norm),
            gate_up=self._matrix(layer.gate_up.flatten(0, 1)),
            down=self._matrix(layer.down),
            width=layer.down.shape[1],
        )
        if layer.routed:
            result.router = self._matrix(layer.routed.router)
            result.bias = self._keep(layer.routed.bias)
            result.expert_gate_up = self._matrix(layer.routed.gate_up.flatten(1, 2))
            result.expert_down = self._matrix(layer.routed.down)
        return result

    def _matrix(self, weight: Tensor, across: bool = False) -> int:
        """Address of the packed form of `weight` [out, in], or of a stack of them; with `across`, of [in, out]."""
        weight = weight.detach().contiguous()
        stack = weight if weight.ndim == 3 else weight[None]
        count, N, K = stack.shape
        if across:
            N, K = K, N
        packed = torch.empty(count * loaded().packed_floats(ctypes.c_int64(K), ctypes.c_int64(N)))
        call("pack_weights", stack, count, K, N, int(across), packed)
        return self._keep(packed)

    def _keep(self, tensor: Tensor) -> int:
        self.kept.append(tensor.detach().contiguous())
        return self.kept[-1].data_ptr()


class _Shape(ctypes.Structure):
    """`Shape` of `decode.c`."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("D", "H", "nope", "rope", "value", "rank", "q_rank", "V", "layers")),
        *((n, ctypes.c_int64) for n in ("E", "K", "F")),
        *((n, ctypes.c_float) for n in ("scale", "eps", "latent_eps", "routed_scaling")),
    ]  # fmt: skip


class _Layer(ctypes.Structure):
    """`Layer` of `decode.c`."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("attention_norm", "latents", "query_norm", "queries", "key_norm", "absorb")),
        *((n, ctypes.c_void_p) for n in ("values", "output", "feed_forward_norm", "gate_up", "down")),
        ("width", ctypes.c_int64),
        *((n, ctypes.c_void_p) for n in ("router", "bias", "expert_gate_up", "expert_down", "cache")),
    ]  # fmt: skip
