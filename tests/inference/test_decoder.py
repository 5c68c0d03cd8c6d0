"""The decoding kernel gives what `Transformer.decode` does."""

from __future__ import annotations

import pytest
import torch
from test_sampler import YARN, build

from k2core.inference.decoders import decoder_for
from k2core.inference.decoders.packed import Packed
from k2core.model.cache import KeyValueCache
from k2core.model.transformer import Transformer
from k2core.ops import using
from k2core.ops.cpu.build import library

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_random_models_decode_alike(seed, threads):
    """Widths that are no multiple of a vector, more threads than sequences, dense layers only, uneven lengths."""
    pick = torch.Generator().manual_seed(seed)

    def one_of(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=pick))]

    experts = one_of(2, 7, 40)
    shape = build(YARN if seed % 2 else None).config.model_copy(update={
        "hidden_size": one_of(8, 36, 68), "intermediate_size": one_of(5, 64), "moe_intermediate_size": one_of(4, 20),
        "num_attention_heads": one_of(1, 3, 40), "q_lora_rank": one_of(4, 19), "kv_lora_rank": one_of(6, 32, 45),
        "qk_nope_head_dim": one_of(3, 16), "qk_rope_head_dim": one_of(2, 10), "v_head_dim": one_of(1, 24),
        "n_routed_experts": experts, "num_experts_per_tok": one_of(1, 2), "n_shared_experts": one_of(1, 2),
        "first_k_dense_replace": one_of(0, 1, 3), "vocab_size": one_of(5, 100),
    })  # fmt: skip
    torch.manual_seed(seed)
    model = Transformer(shape)
    for router in model.routers():
        router.e_score_correction_bias.copy_(torch.linspace(-0.2, 0.2, experts))
    sequences, before = one_of(1, 4, 30), torch.get_num_threads()
    lengths = torch.randint(1, 40, (sequences,), generator=pick)
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            results = [decoded(model, kernel, lengths) for kernel in (True, False)]
    finally:
        torch.set_num_threads(before)
    for mine, other in zip(*results, strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


def decoded(model: Transformer, kernel: bool, lengths: torch.Tensor) -> list[torch.Tensor]:
    """Logits of three steps, and the caches after them."""
    generator = torch.Generator().manual_seed(7)
    cache = KeyValueCache(model.config, len(lengths), 43, like=model.lm_head.weight)
    cache.layers = [torch.randn(layer.shape, generator=generator) for layer in cache.layers]
    cache.lengths_B = lengths.clone()
    results = []
    with using("auto" if kernel else "reference"):
        decoder = decoder_for(model)
        assert isinstance(decoder, Packed if kernel else Transformer)
        for _ in range(3):
            tokens = torch.randint(model.config.vocab_size, (len(lengths),), generator=generator)
            results.append(decoder.decode(tokens, cache))
    return [*results, *cache.layers, cache.lengths_B]


def test_what_the_kernel_cannot_decode_is_left_to_the_model():
    model = build()
    with using("reference"):
        assert decoder_for(model) is model
    plain = {"attention": "mha", "q_lora_rank": None, "kv_lora_rank": None}
    for other in (build().bfloat16(), Transformer(model.config.model_copy(update=plain))):
        assert decoder_for(other) is other


def test_a_full_cache_and_a_token_that_is_none_are_errors():
    decoder = decoder_for(build())
    cache = KeyValueCache(decoder.model.config, 2, 4, like=decoder.model.lm_head.weight)
    with pytest.raises(IndexError, match="a token is not one of 0 to 49"):
        decoder.decode(torch.tensor([0, 50]), cache)
    cache.lengths_B = torch.tensor([1, 4])
    with pytest.raises(IndexError, match="4 slots per sequence"):
        decoder.decode(torch.tensor([0, 1]), cache)
