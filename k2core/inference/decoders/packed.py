"""`Transformer.decode` as one call of a backend (`ops.packed_decoder`), for models with latent attention.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from k2core import ops
from k2core.model.block import Block
from k2core.model.cache import KeyValueCache
from k2core.model.experts import MixtureOfExperts
from k2core.model.mla import MultiHeadLatentAttention
from k2core.model.transformer import Transformer


@dataclass(frozen=True)
class Packed:
    """A model whose weights a backend has packed."""

    model: Transformer
    decoder: ops.PackedDecoder

    def decode(self, tokens_B: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits [B, V] after one more token of each sequence, which enters `cache`.

        Raises:
            IndexError: a sequence has no slot left in `cache`, or a token is out of range.
        """
        cos, sin = self.model.rotary(cache.lengths_B)
        logits_BV = self.decoder.step(tokens_B, cache.lengths_B, cache.layers, cos, sin)
        cache.lengths_B = cache.lengths_B + 1
        return logits_BV


def packed(model: Transformer) -> Packed | None:
    """`model` packed, or None where no backend can: it has another attention, type or device."""
    config, attention = model.config, model.blocks()[0].self_attn
    if not isinstance(attention, MultiHeadLatentAttention) or model.dtype != model.lm_head.weight.dtype:
        return None
    decoder = ops.packed_decoder(
        ops.DecoderWeights(
            heads=attention.heads, nope=attention.nope, rope=attention.rope, value=attention.value,
            experts_per_token=config.num_experts_per_tok, scale=attention.scale, eps=config.rms_norm_eps,
            latent_eps=attention.kv_a_layernorm.eps, routed_scaling=config.routed_scaling_factor,
            embedding=model.embed_tokens.weight, norm=model.norm.weight, head=model.lm_head.weight,
            layers=[_layer(layer) for layer in model.blocks()],
        )
    )  # fmt: skip
    return None if decoder is None else Packed(model, decoder)


def _layer(layer: Block) -> ops.LayerWeights:
    attention, feed_forward, routed = layer.self_attn, layer.mlp, None
    if not isinstance(attention, MultiHeadLatentAttention):
        raise TypeError(f"a {type(attention).__name__} cannot be packed: its weights differ")
    if isinstance(feed_forward, MixtureOfExperts):
        gate, experts = feed_forward.gate, feed_forward.experts
        routed = ops.RoutedWeights(gate.weight, gate.e_score_correction_bias, experts.gate_up_proj, experts.down_proj)
        feed_forward = feed_forward.shared_experts
    return ops.LayerWeights(
        attention_norm=layer.input_layernorm.weight, query_latent=attention.q_a_proj.weight,
        query_norm=attention.q_a_layernorm.weight, queries=attention.q_b_proj.weight,
        key_latent=attention.kv_a_proj_with_mqa.weight, key_norm=attention.kv_a_layernorm.weight,
        keys_values=attention.kv_b_proj.weight, output=attention.o_proj.weight,
        feed_forward_norm=layer.post_attention_layernorm.weight, gate_up=feed_forward.gate_up_proj,
        down=feed_forward.down_proj, routed=routed,
    )  # fmt: skip
