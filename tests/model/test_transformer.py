"""Masks, maxima, routing, losses and files of the model."""

from __future__ import annotations

import pytest
import torch

from k2core.model import transformer
from k2core.model.config import ModelConfig, YarnConfig
from k2core.model.files import load_model, save_model
from k2core.model.loss import IGNORE, cross_entropy, token_log_probs
from k2core.ops import reference
from k2core.ops.cpu import operations as cpu
from k2core.recipe import RecipeError, validate
from k2core.storage import StorageError

pytestmark = pytest.mark.usefixtures("either_way")


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 96, shape, generator=torch.Generator().manual_seed(2))


def test_packed_segments_equal_separate_forwards(build):
    model, tokens = build(), random_tokens(1, 30)
    segments = torch.tensor([[0] * 11 + [1] * 19])
    positions = torch.cat([torch.arange(11), torch.arange(19)])[None]
    packed = model(tokens, positions, segments)
    apart = torch.cat([model(tokens[:, :11]), model(tokens[:, 11:])], dim=1)
    assert float((packed - apart).abs().max()) < 1e-5
    assert float((model(tokens) - apart).abs().max()) > 1e-2


def test_the_future_is_not_seen(build):
    model, tokens = build(), random_tokens(1, 20)
    changed = tokens.clone()
    changed[0, 12:] = 0
    assert torch.allclose(model(tokens)[0, :12], model(changed)[0, :12], atol=1e-6)


def test_query_blocks_change_nothing(build, monkeypatch):
    model, tokens = build(), random_tokens(2, 50)
    segments = (torch.arange(50) // 17).expand(2, 50)
    whole = model(tokens, None, segments)
    maxima = [layer.max_logit_H.clone() for layer in model.attentions()]
    for layer in model.attentions():
        layer.max_logit_H.fill_(-torch.inf)
    for backend in (reference, cpu):
        monkeypatch.setattr(backend, "QUERY_BLOCK", 16)
    assert torch.allclose(model(tokens, None, segments), whole, atol=1e-5)
    for layer, expected in zip(model.attentions(), maxima, strict=True):
        assert torch.allclose(layer.max_logit_H, expected)


def test_max_logit_is_the_largest_causal_logit_of_a_segment(build):
    """Against logits written out from the definition, pair by pair."""
    model, tokens = build(yarn=True), random_tokens(2, 9)
    segments = torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    layer, seen = model.layers[0], {}
    layer.self_attn.register_forward_hook(lambda _, args, __: seen.update(x=args[0], latents=args[1], rotation=args[2]))
    model(tokens, None, segments)
    own = layer.self_attn
    q = torch.cat(own._queries(seen["x"], seen["rotation"]), dim=-1)
    latent, rope = seen["latents"].split([own.rank, own.rope], dim=-1)
    k_nope = own.kv_b_proj(latent).unflatten(-1, (own.heads, -1))[..., : own.nope]
    for head in range(own.heads):
        k = torch.cat([k_nope[:, :, head], rope], dim=-1)
        logits = [
            float(q[b, i, head] @ k[b, j])
            for b in range(2) for i in range(9) for j in range(i + 1) if segments[b, i] == segments[b, j]
        ]  # fmt: skip
        assert float(own.max_logit_H[head]) == pytest.approx(max(logits), rel=1e-5)
    assert not own.max_logit_H.requires_grad


def test_maxima_and_counts_run_on_over_micro_batches_and_skip_no_grad(build):
    model = build()
    with torch.no_grad():
        model(random_tokens(2, 16))
    assert all(bool((layer.max_logit_H == -torch.inf).all()) for layer in model.attentions())
    assert all(int(router.tokens_per_expert_E.sum()) == 0 for router in model.routers())
    first, second = random_tokens(4, 16).split(2)
    maxima = []
    for part in (first, second):
        model(part)
        maxima.append(model.attentions()[0].max_logit_H.clone())
    assert torch.equal(maxima[1], torch.maximum(*maxima))
    assert all(int(router.tokens_per_expert_E.sum()) == 4 * 16 * 2 for router in model.routers())


@pytest.mark.parametrize("logits", [1, 5 * 96, 10**9])
def test_losses_one_by_one_are_those_of_the_logits(build, monkeypatch, logits):
    """However few logits there are at a time; no gradient is needed, none is lost."""
    model, tokens, targets = build(), random_tokens(3, 17), random_tokens(3, 17)
    targets[:, ::4] = IGNORE
    monkeypatch.setattr(transformer, "LOGITS", logits)
    losses = model(tokens, scored_BT=targets)
    assert torch.allclose(losses, -token_log_probs(model(tokens), targets), atol=1e-5)
    assert losses.shape == targets.shape and bool((losses[targets == IGNORE] == 0).all())
    assert torch.allclose(losses.sum(), model(tokens, targets_BT=targets), rtol=1e-5)


def test_router_bias_changes_the_choice_but_not_the_weights(build):
    router, x = build().routers()[0], torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    router.e_score_correction_bias.copy_(torch.tensor([9.0, 0.0, 0.0, -9.0]))
    experts, weights = router(x)
    assert bool((experts == 0).any(dim=1).all()) and not bool((experts == 3).any())
    scores = (x @ router.weight.T).sigmoid().gather(1, experts)
    assert torch.allclose(weights, 2.827 * scores / scores.sum(1, keepdim=True), atol=1e-5)


def test_experts_equal_a_loop_over_tokens(build):
    layer = build().layers[1].mlp
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    chosen, weights = layer.gate(x)
    expected = layer.shared_experts(x)
    for n in range(7):
        for expert, weight in zip(chosen[n].tolist(), weights[n], strict=True):
            gate, up = layer.experts.gate_up_proj[expert]
            hidden = torch.nn.functional.silu(gate @ x[n]) * (up @ x[n])
            expected[n] = expected[n] + weight * (layer.experts.down_proj[expert] @ hidden)
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_logits_of_wanted_positions(build):
    model, tokens = build(), random_tokens(2, 9)
    wanted = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    assert torch.allclose(model(tokens, wanted_BT=wanted), model(tokens)[wanted], atol=1e-5)


def test_losses():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1, IGNORE, 2], [IGNORE, IGNORE, 4]])
    log_probs = token_log_probs(logits, targets)
    expected = logits.log_softmax(-1)
    assert log_probs[0].tolist() == pytest.approx([float(expected[0, 0, 1]), 0.0, float(expected[0, 2, 2])])
    assert float(cross_entropy(logits, targets)) == pytest.approx(float(-log_probs.sum() / 3))
    with pytest.raises(ValueError, match="no position"):
        cross_entropy(logits, torch.full((2, 3), IGNORE))


def test_a_saved_model_comes_back_and_saves_to_the_same_bytes(build, tmp_path):
    model, tokens = build(), random_tokens(1, 12)
    save_model(model, tmp_path / "a")
    state = torch.get_rng_state()
    loaded = load_model(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(loaded(tokens), model(tokens))
    save_model(loaded, tmp_path / "b")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    yarn = YarnConfig(
        factor=2, beta_fast=1, beta_slow=1, mscale=1, mscale_all_dim=1, original_max_position_embeddings=64
    )
    extended = load_model(tmp_path / "a", rope_scaling=yarn)
    assert extended.config.max_position_embeddings == 128
    assert not torch.equal(extended(tokens), model(tokens))
    save_model(extended, tmp_path / "c")
    assert load_model(tmp_path / "c", rope_scaling=None).config == model.config


def test_broken_folders_are_named(build, tmp_path):
    with pytest.raises(StorageError, match=r"config\.json: no such file"):
        load_model(tmp_path)
    save_model(build(), tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(StorageError, match="not a whole safetensors file"):
        load_model(tmp_path)
    save_model(build(hidden_size=64), tmp_path / "other")
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(StorageError, match="not the weights of"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts_per_tok": 9}, "only 4 routed experts"),
        ({"first_k_dense_replace": 7}, "only 3 layers"),
        ({"qk_rope_head_dim": 7}, "multiple of 2"),
        ({"heads": 3}, "heads: unknown key"),
        ({"rope_scaling": {"factor": 2.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                           "original_max_position_embeddings": 64}}, "max_position_embeddings is 64, but"),
    ],
)  # fmt: skip
def test_impossible_shapes_are_refused(build, change, message):
    shape = build().config.model_dump()
    assert validate(ModelConfig, shape, "params.yaml: model")
    with pytest.raises(RecipeError, match=message):
        validate(ModelConfig, shape | change, "params.yaml: model")
