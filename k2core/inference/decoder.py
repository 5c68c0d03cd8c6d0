"""One decoding step as one kernel, `k2core/ops/cpu/decode.c`, with the weights laid out for it once a generation."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from k2core.model.block import Block
from k2core.model.cache import KeyValueCache
from k2core.model.experts import MixtureOfExperts
from k2core.model.transformer import Transformer
from k2core.ops.cpu.build import call, library, usable


class Decoder:
    """`Transformer.decode` for a model with latent attention, made anew whenever its weights have changed."""

    def __init__(self, model: Transformer) -> None:
        config, attention = model.config, model.layers[0].self_attn
        self.model, self.kept = model, []
        self.shape = _Shape(
            config.hidden_size, config.num_attention_heads, config.qk_nope_head_dim, config.qk_rope_head_dim,
            config.v_head_dim, config.kv_lora_rank, config.q_lora_rank, config.vocab_size, config.num_hidden_layers,
            config.n_routed_experts, config.num_experts_per_tok, config.moe_intermediate_size, attention.scale,
            config.rms_norm_eps, attention.kv_a_layernorm.eps, config.routed_scaling_factor,
        )  # fmt: skip
        self.embedding, self.norm = self._keep(model.embed_tokens.weight), self._keep(model.norm.weight)
        self.head = self._matrix(model.lm_head.weight)
        self.layers = (_Layer * config.num_hidden_layers)(*(self._layer(layer) for layer in model.layers))

    @staticmethod
    def fits(model: Transformer) -> bool:
        """Whether the kernel can decode `model` here."""
        return model.config.attention == "mla" and usable(*model.parameters())

    def decode(self, tokens_B: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits [B, V] after one more token a sequence, which enters `cache`.

        Raises:
            IndexError: a sequence has no slot left in `cache`, or a token is none.
        """
        slots = cache.layers[0].shape[1]
        if int(cache.lengths_B.max()) >= slots:
            raise IndexError(f"the cache has {slots} slots a sequence, and one of them has no slot left")
        if not 0 <= int(tokens_B.min()) <= int(tokens_B.max()) < self.shape.V:
            raise IndexError(f"a token is not one of 0 to {self.shape.V - 1}")
        for layer, part in zip(self.layers, cache.layers, strict=True):
            layer.cache = part.data_ptr()
        cos, sin = self.model.rotary(cache.lengths_B)
        logits_BV = torch.empty(len(tokens_B), self.shape.V)
        call(
            "decode", self.shape, self.layers, self.embedding, self.norm, self.head, tokens_B.contiguous(),
            cache.lengths_B, slots, cos, sin, len(tokens_B), logits_BV,
        )  # fmt: skip
        cache.lengths_B = cache.lengths_B + 1
        return logits_BV

    def _layer(self, layer: Block) -> _Layer:
        attention, feed_forward = layer.self_attn, layer.mlp
        heads = attention.kv_b_proj.weight.unflatten(0, (attention.heads, -1))
        routed = isinstance(feed_forward, MixtureOfExperts)
        shared = feed_forward.shared_experts if routed else feed_forward
        result = _Layer(
            attention_norm=self._keep(layer.input_layernorm.weight),
            latents=self._matrix(torch.cat([attention.q_a_proj.weight, attention.kv_a_proj_with_mqa.weight])),
            query_norm=self._keep(attention.q_a_layernorm.weight),
            queries=self._matrix(attention.q_b_proj.weight),
            key_norm=self._keep(attention.kv_a_layernorm.weight),
            absorb=self._matrix(heads[:, : attention.nope], across=True),
            values=self._matrix(heads[:, attention.nope :]),
            output=self._matrix(attention.o_proj.weight),
            feed_forward_norm=self._keep(layer.post_attention_layernorm.weight),
            gate_up=self._matrix(shared.gate_up_proj.flatten(0, 1)),
            down=self._matrix(shared.down_proj),
            width=shared.down_proj.shape[1],
        )
        if routed:
            result.router = self._matrix(feed_forward.gate.weight)
            result.bias = self._keep(feed_forward.gate.e_score_correction_bias)
            result.expert_gate_up = self._matrix(feed_forward.experts.gate_up_proj.flatten(1, 2))
            result.expert_down = self._matrix(feed_forward.experts.down_proj)
        return result

    def _matrix(self, weight: Tensor, across: bool = False) -> int:
        """Where the packed form of `weight` [out, in] lies, or of a stack of such; `across`: of [in, out]."""
        weight = weight.detach().contiguous()
        stack = weight if weight.ndim == 3 else weight[None]
        count, N, K = stack.shape
        if across:
            N, K = K, N
        packed = torch.empty(count * library().packed_floats(ctypes.c_int64(K), ctypes.c_int64(N)))
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
