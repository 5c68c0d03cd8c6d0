"""QK-Clip's rules on real batches, for both kinds of attention (K2 §2.1, Algorithm 1)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_muonclip import CONFIG, SHAPE, TOKENS, weights

from k2core.model.attention import Attention
from k2core.model.config import YarnConfig
from k2core.model.loss import cross_entropy
from k2core.model.transformer import Transformer
from k2core.optim.muonclip import MuonClip
from k2core.optim.qk_clip import qk_clip

pytestmark = pytest.mark.usefixtures("either_way")

MHA = SHAPE.model_copy(update={"attention": "mha", "q_lora_rank": None, "kv_lora_rank": None})
YARN = YarnConfig(factor=4, beta_fast=32, beta_slow=1, mscale=1, mscale_all_dim=1, original_max_position_embeddings=16)
SHAPES = {
    "mla": SHAPE,
    "mha": MHA,
    "mla-yarn": SHAPE.with_rope_scaling(YARN),
    "mha-all-rotary": MHA.model_copy(update={"qk_nope_head_dim": 0}),
    "mla-dense": SHAPE.model_copy(update={"first_k_dense_replace": 2}),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
SLOW = CONFIG.model_copy(update={"muon_lr": 1e-6, "adamw_lr": 1e-6})


def build(shape=SHAPE, seed: int = 0, louder: float = 1.0) -> Transformer:
    """A model whose queries are `louder` times as large in all heads but the last."""
    torch.manual_seed(seed)
    model = Transformer(shape)
    with torch.no_grad():
        for attention in model.attentions():
            query = attention.q_proj if shape.attention == "mha" else attention.q_b_proj
            query.weight.unflatten(0, (attention.heads, -1))[:-1] *= louder
    return model


def backward(model: Transformer, tokens: torch.Tensor = TOKENS, share: float = 1.0) -> None:
    (share * cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])).backward()


def maxima(model: Transformer) -> torch.Tensor:
    return torch.stack([attention.max_logit_H for attention in model.attentions()])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(-math.inf), min_size=3, max_size=3), st.integers(1, 500))
def test_plain_heads_are_scaled_by_the_root_on_both_sides(scores, threshold):
    model = build(MHA)
    attention, before = model.attentions()[0], weights(model)
    attention.max_logit_H.copy_(torch.tensor(scores))
    gamma_H = qk_clip(attention, threshold)
    moved = torch.tensor([score > threshold for score in scores])
    assert bool(((gamma_H > 0) & (gamma_H <= 1)).all()) and torch.equal(gamma_H < 1, moved)  # no NaN, never a raise
    after = weights(model)
    names = {f"layers.0.self_attn.{part}_proj.weight" for part in "qk"}
    assert {name for name in after if not torch.equal(before[name], after[name])} <= names  # not v, not o
    for name in names:
        old, new = (w[name].view(3, 12, 32) for w in (before, after))
        assert torch.allclose(new, old * gamma_H[:, None, None].sqrt(), rtol=1e-5, atol=1e-30)
        assert torch.equal(new[~moved], old[~moved])
    assert bool((attention.max_logit_H == -torch.inf).all())


@every_shape
def test_the_clipped_heads_reach_exactly_the_threshold(shape):
    """In the first layer, below which nothing changes; the quiet head keeps its logits bit for bit."""
    model = build(shape, louder=30)
    backward(model)
    attention = model.attentions()[0]
    before = attention.max_logit_H.clone()
    threshold = float(before.sort().values[1]) * 0.5
    assert threshold > before[-1]
    qk_clip(attention, threshold)
    backward(model)
    assert torch.allclose(attention.max_logit_H, before.clamp(max=threshold), rtol=1e-4)
    assert attention.max_logit_H[-1] == before[-1]


@every_shape
@pytest.mark.parametrize("seed", range(4))
def test_logits_of_the_same_batch_are_at_most_the_threshold_after_a_step(shape, seed):
    """All layers, a whole step of the optimiser. Clipped layers feed others, so τ holds there to an approximation."""
    model = build(shape, seed, louder=30)
    backward(model)
    before = maxima(model)
    threshold = 0.3 * float(before.max())
    figures = MuonClip(model, SLOW.model_copy(update={"qk_clip_threshold": threshold})).step(1.0)
    assert figures["qk_clip/heads_clipped"] == int((before > threshold).sum()) > 0
    assert bool((maxima(model) == -torch.inf).all())  # reset each step
    backward(model)
    after = maxima(model)
    assert float(after[0].max()) <= threshold * 1.001
    assert float(after.max()) <= threshold * 1.25 < float(before.max())


@every_shape
def test_micro_batches_combine_by_the_maximum_and_equal_one_batch(shape):
    """Two halves, or one batch: the same maxima, γ, counts and weights after the step."""
    whole, halves = build(shape, louder=30), build(shape, louder=30)
    config = CONFIG.model_copy(update={"qk_clip_threshold": 5.0})
    optimizers = MuonClip(whole, config), MuonClip(halves, config)
    backward(whole)
    parts = []
    for part in TOKENS.split(2):
        alone = build(shape, louder=30)
        backward(alone, part)
        parts.append(maxima(alone))
        backward(halves, part, share=0.5)
    assert torch.equal(maxima(halves), torch.maximum(*parts)) and not torch.equal(*parts)
    figures = [optimizer.step(1.0) for optimizer in optimizers]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3) and figures[0]["qk_clip/heads_clipped"] > 0
    for name in ("max_logit_LH", "gamma_LH", "load_LE"):
        ours, theirs = (getattr(optimizer, name) for optimizer in optimizers)
        assert torch.allclose(ours, theirs, rtol=1e-4), name
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(halves)[name], atol=1e-4), name


@every_shape
def test_the_maximum_has_no_gradient_and_keeps_no_graph(shape, monkeypatch):
    watched, blind = build(shape), build(shape)
    monkeypatch.setattr(blind, "attentions", lambda: [])  # nobody observes
    for model in (watched, blind):
        backward(model)
    assert bool(maxima(watched).isfinite().all()) and not bool(blind.layers[0].self_attn.max_logit_H.isfinite().any())
    for ours, theirs in zip(watched.parameters(), blind.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for attention in watched.attentions():
        assert attention.max_logit_H.grad_fn is None and not attention.max_logit_H.requires_grad
        qk_clip(attention, 0.01)
        assert all(parameter.is_leaf and parameter.grad is not None for parameter in attention.parameters())


@every_shape
def test_repeated_clipping_of_the_same_maximum_never_raises_a_scale(shape):
    """Norms of query and key rows per head only fall, whatever the maxima are."""
    model = build(shape)
    attention, generator = model.attentions()[0], torch.Generator().manual_seed(0)

    def norms(own: Attention) -> torch.Tensor:
        names = ("q_proj", "k_proj") if shape.attention == "mha" else ("q_b_proj", "kv_b_proj")
        return torch.stack(
            [getattr(own, n).weight.detach().unflatten(0, (own.heads, -1)).norm(dim=(1, 2)) for n in names]
        )

    for _ in range(20):
        before = norms(attention)
        scores_H = 200 * torch.randn(attention.heads, generator=generator)
        attention.max_logit_H.copy_(scores_H)
        qk_clip(attention, 100.0)
        after = norms(attention)
        assert bool((after <= before).all()) and torch.equal((after < before).all(dim=0), scores_H > 100)
