"""Dense and plain multi-head variants beside K2's own: same promises, other shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from k2core.formats.huggingface import from_huggingface, huggingface_config, save_huggingface
from k2core.model.cache import KeyValueCache
from k2core.model.config import ModelConfig
from k2core.model.counts import activated, total_parameters
from k2core.recipe import RecipeError, validate

pytestmark = pytest.mark.usefixtures("either_way")

MHA: dict[str, Any] = {"attention": "mha", "q_lora_rank": None, "kv_lora_rank": None}
DENSE: dict[str, Any] = {"first_k_dense_replace": 3}
VARIANTS = {
    "mla-moe": {},
    "mla-dense": DENSE,
    "mha-moe": MHA,
    "mha-dense": MHA | DENSE,
    "mha-all-rotary": MHA | {"qk_nope_head_dim": 0},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 96, shape, generator=torch.Generator().manual_seed(2))


@every_variant
@pytest.mark.parametrize("yarn", [False, True], ids=["plain", "yarn"])
def test_decoding_from_the_cache_equals_the_full_forward(build, changes, yarn):
    """Prompts of different lengths, then token by token, past the original context of 64 with YaRN."""
    model, steps = build(yarn, **changes).requires_grad_(False), 12
    lengths, tokens = torch.tensor([3, 60, 31]), random_tokens(3, 60 + steps)
    cache = KeyValueCache(model.config, 3, 60 + steps, like=model.lm_head.weight)
    model.prefill(tokens[:, :60], cache)
    cache.lengths_B = lengths.clone()  # a step adds to it in place
    full, rows = model(tokens), torch.arange(3)
    for step in range(steps):
        places = lengths + step
        decoded = model.decode(tokens[rows, places], cache)
        assert float((decoded - full[rows, places]).abs().max()) < 1e-4
    assert float(full.std()) > 0.3


@every_variant
def test_segments_and_the_future_are_not_seen(build, changes):
    model, tokens = build(**changes).requires_grad_(False), random_tokens(1, 30)
    segments = torch.tensor([[0] * 11 + [1] * 19])
    positions = torch.cat([torch.arange(11), torch.arange(19)])[None]
    apart = torch.cat([model(tokens[:, :11]), model(tokens[:, 11:])], dim=1)
    assert float((model(tokens, positions, segments) - apart).abs().max()) < 1e-5
    assert float((model(tokens) - apart).abs().max()) > 1e-2
    changed = tokens.clone()
    changed[0, 12:] = 0
    assert torch.allclose(model(tokens)[0, :12], model(changed)[0, :12], atol=1e-6)


@pytest.mark.parametrize("nope", [0, 8])
def test_plain_attention_equals_its_definition(build, nope):
    """Against complex rotation, `scaled_dot_product_attention` and logits head by head, none of which is ours."""
    model, tokens = build(**MHA | {"qk_nope_head_dim": nope}), random_tokens(2, 20)
    own, seen = model.layers[0].self_attn, {}
    own.register_forward_hook(lambda _, args, result: seen.update(x=args[0], result=result))
    model(tokens)
    frequencies = 50000.0 ** (-torch.arange(0, 8, 2) / 8)
    turns = torch.polar(torch.ones(20, 4), torch.arange(20)[:, None] * frequencies)

    def heads(projection: torch.nn.Linear, rotated: bool) -> torch.Tensor:
        y_BHTd = (seen["x"] @ projection.weight.T).view(2, 20, 2, -1).transpose(1, 2)
        if not rotated:
            return y_BHTd
        pairs = torch.view_as_complex(y_BHTd[..., nope:].reshape(2, 2, 20, 4, 2))
        return torch.cat([y_BHTd[..., :nope], torch.view_as_real(pairs * turns).flatten(-2)], dim=-1)

    q, k, v = heads(own.q_proj, True), heads(own.k_proj, True), heads(own.v_proj, False)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = out.transpose(1, 2).flatten(2) @ own.o_proj.weight.T
    assert float((seen["result"] - expected).detach().abs().max()) < 1e-4
    logits = q @ k.mT / (nope + 8) ** 0.5
    logits = logits.masked_fill(torch.ones(20, 20, dtype=torch.bool).triu(1), -torch.inf)
    assert torch.allclose(own.max_logit_H, logits.detach().amax((0, 2, 3)), rtol=1e-5)


def test_what_is_cached_and_counted(build):
    mla, mha, dense = build(), build(**MHA), build(**DENSE)
    assert mla.config.cache_width == 12 + 8 and mha.config.cache_width == 2 * (16 + 12)
    assert KeyValueCache(mha.config, 5, 20, torch.zeros(())).layers[2].shape == (5, 20, 56)
    assert not dense.routers() and total_parameters(dense) == activated(dense.config)
    assert sum(p.numel() for p in mha.attentions()[0].parameters()) == 32 * 2 * (16 + 16 + 12 + 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (MHA | {"kv_lora_rank": 12}, "kv_lora_rank is 12, but attention mha compresses nothing; set it to null"),
        ({"attention": "mha"}, "q_lora_rank is 16, but attention mha"),
        ({"kv_lora_rank": None}, "attention mla needs kv_lora_rank; give a rank, or set attention to mha"),
        ({"qk_nope_head_dim": 0}, "attention mla needs qk_nope_head_dim"),
        ({"attention": "gqa"}, "attention = 'gqa': input should be 'mla' or 'mha'"),
    ],
)
def test_mixed_up_variants_are_refused(build, change, message):
    with pytest.raises(RecipeError, match=message):
        validate(ModelConfig, build().config.model_dump() | change, "params.yaml: model")


def test_plain_attention_cannot_be_exported_and_says_so(build, tmp_path):
    model = build(**MHA)
    for attempt in (
        lambda: save_huggingface(model, tmp_path / "out", eos_token_ids=[1]),
        lambda: huggingface_config(model.config, eos_token_ids=[1]),
        lambda: from_huggingface({}, model.config),
    ):
        with pytest.raises(ValueError, match=r"deepseek_v3 has only multi-head latent attention \(mla\)"):
            attempt()
    assert not (tmp_path / "out").exists()
