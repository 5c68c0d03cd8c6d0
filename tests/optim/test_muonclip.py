"""Properties of Muon, QK-Clip, router balance, and of the optimiser as a whole."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from k2core.model.config import ModelConfig
from k2core.model.loss import cross_entropy
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muon import UPDATE_RMS, Muon, orthogonalize
from k2core.optim.muonclip import MuonClip
from k2core.optim.qk_clip import qk_clip
from k2core.optim.router_bias import update_router_bias

pytestmark = pytest.mark.usefixtures("either_way")

SHAPE = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=3, attention="mla",
    q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
    routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=None, max_position_embeddings=64,
    rms_norm_eps=1e-6, initializer_range=0.2,
)  # fmt: skip
CONFIG = MuonClipConfig(
    muon_lr=0.01, adamw_lr=0.01, momentum=0.95, weight_decay=0.1, adamw_beta1=0.9, adamw_beta2=0.95, adamw_eps=1e-8,
    max_grad_norm=1.0, qk_clip_threshold=100.0, router_bias_rate=0.001,
)  # fmt: skip
TOKENS = torch.randint(0, 64, (4, 25), generator=torch.Generator().manual_seed(3))


def build(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(SHAPE)


def backward(model: Transformer) -> float:
    loss = cross_entropy(model(TOKENS[:, :-1]), TOKENS[:, 1:])
    loss.backward()
    return loss.item()


def weights(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# Muon


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16), (5, 2, 16, 32)])
def test_updates_are_orthogonal_and_have_the_same_rms(shape):
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    muon = Muon([("w", parameter)], momentum=0.95, weight_decay=0.0)
    rms = float(muon.step(lr=1.0, gradient_scale=1.0))
    assert rms == pytest.approx(UPDATE_RMS, rel=0.15)
    singular = torch.linalg.svdvals(-parameter.detach()) / (UPDATE_RMS * math.sqrt(max(shape[-2:])))
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.3
    cosine = torch.nn.functional.cosine_similarity(parameter.detach().flatten(), -parameter.grad.flatten(), dim=0)
    assert float(cosine) > 0.5  # downhill


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.floats(-4, 6), st.integers(0, 99))
def test_any_shape_and_any_size_of_gradient_gives_the_same_rms(rows, columns, exponent, seed):
    gradient = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(seed)) * 10.0**exponent
    singular = torch.linalg.svdvals(orthogonalize(gradient)[0])
    assert float(singular.max()) < 1.3
    assert 0.65 < float(singular.square().mean().sqrt()) < 1.15  # RMS of the update over UPDATE_RMS


def test_every_matrix_of_a_model_moves_by_the_same_rms():
    """Whatever its shape and its gradient's size; a stacked expert is a matrix of its own."""
    model = build()
    before = weights(model)
    backward(model)
    MuonClip(model, CONFIG.model_copy(update={"weight_decay": 0.0, "qk_clip_threshold": 1e9})).step(1.0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name not in ("embed_tokens.weight", "lm_head.weight"):
            moved = (parameter.detach() - before[name]).reshape(-1, *parameter.shape[-2:])
            rms = moved.square().mean(dim=(1, 2)).sqrt() / CONFIG.muon_lr
            assert torch.allclose(rms, torch.tensor(UPDATE_RMS), rtol=0.25), (name, rms)


def test_each_expert_is_orthogonalised_for_itself():
    gradients = torch.randn(3, 2, 16, 32, generator=torch.Generator().manual_seed(0))
    gradients[1] *= 1e3
    together = orthogonalize(gradients.flatten(0, 1)).view_as(gradients)
    for e in range(3):
        for m in range(2):
            assert torch.allclose(together[e, m], orthogonalize(gradients[e, m][None])[0], atol=1e-4)
    assert float(orthogonalize(torch.zeros(1, 4, 8)).abs().max()) == 0


def test_momentum_is_nesterov_and_decay_is_decoupled():
    """Two steps against the rule written out for one matrix."""
    generator = torch.Generator().manual_seed(0)
    start, first, second = (torch.randn(8, 16, generator=generator) for _ in range(3))
    parameter = torch.nn.Parameter(start.clone())
    muon = Muon([("w", parameter)], momentum=0.9, weight_decay=0.5)
    for gradient in (first, second):
        parameter.grad = gradient.clone()
        muon.step(lr=0.1, gradient_scale=1.0)
    expected, momentum = start, torch.zeros(8, 16)
    for gradient in (first, second):
        momentum = 0.9 * momentum + gradient
        update = orthogonalize((gradient + 0.9 * momentum)[None])[0] * 0.2 * 4
        expected = expected - 0.1 * (update + 0.5 * expected)
    assert torch.allclose(parameter, expected, atol=1e-5)


@pytest.mark.parametrize("per_head", [False, True])
def test_heads_are_orthogonalised_together_or_each_alone(per_head):
    """MLA's up-projections alone; an update has the same RMS either way."""
    model = build()
    before = weights(model)
    backward(model)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    changes = {"weight_decay": 0.0, "qk_clip_threshold": 1e9, "per_head": per_head, "max_grad_norm": 1e9}
    MuonClip(model, CONFIG.model_copy(update=changes)).step(1.0)
    for name, parameter in model.named_parameters():
        if "_proj" in name and parameter.ndim == 2 and "mlp" not in name:
            blocks = 3 if per_head and "_b_proj" in name else 1
            matrices = gradients[name].unflatten(0, (blocks, -1))
            expected = orthogonalize(matrices) * UPDATE_RMS * max(matrices.shape[1:]) ** 0.5
            moved = (before[name] - parameter.detach()) / CONFIG.muon_lr
            assert torch.allclose(moved.view_as(expected), expected, atol=2e-3), name
            assert float(moved.square().mean().sqrt()) == pytest.approx(UPDATE_RMS, rel=0.25), name


# QK-Clip


def logits_of_heads(model: Transformer, scores: list[float]) -> None:
    for attention in model.attentions():
        attention.max_logit_H.copy_(torch.tensor(scores))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(-math.inf), min_size=3, max_size=3), st.integers(1, 500))
def test_clip_rules(scores, threshold):
    model = build()
    attention = model.attentions()[0]
    before = weights(model)
    logits_of_heads(model, scores)
    gamma = qk_clip(attention, threshold)
    after = weights(model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    moved = torch.tensor([score > threshold for score in scores])
    assert changed <= {"layers.0.self_attn.q_b_proj.weight", "layers.0.self_attn.kv_b_proj.weight"}
    assert changed or not bool((gamma < 0.999).any())
    assert bool(moved.any()) or not changed
    assert bool(((gamma > 0) & (gamma <= 1)).all()) and torch.equal(gamma < 1, moved)  # no NaN, never a raise
    q, q_before = (w["layers.0.self_attn.q_b_proj.weight"].view(3, 12, 16) for w in (after, before))
    kv, kv_before = (w["layers.0.self_attn.kv_b_proj.weight"].view(3, 16, 12) for w in (after, before))
    factor = gamma[:, None, None]
    assert torch.allclose(q[:, :8], q_before[:, :8] * factor.sqrt(), rtol=1e-5, atol=1e-30)
    assert torch.allclose(q[:, 8:], q_before[:, 8:] * factor, rtol=1e-5, atol=1e-30)
    assert torch.allclose(kv[:, :8], kv_before[:, :8] * factor.sqrt(), rtol=1e-5, atol=1e-30)
    assert torch.equal(kv[:, 8:], kv_before[:, 8:])  # values
    assert bool((attention.max_logit_H == -torch.inf).all())  # reset for the next step


def test_the_clipped_heads_reach_exactly_the_threshold():
    model = build()
    with torch.no_grad():
        for attention in model.attentions():
            attention.q_b_proj.weight[:24] *= 300  # two of three heads explode
    backward(model)
    attention = model.attentions()[0]  # below it nothing changes, so its logits after the clip are predictable
    before = attention.max_logit_H.clone()
    threshold = float(before.sort().values[1]) * 0.5
    assert int((before > threshold).sum()) == 2
    qk_clip(attention, threshold)
    backward(model)
    assert torch.allclose(attention.max_logit_H, before.clamp(max=threshold), rtol=1e-4)


def test_the_clip_does_not_change_the_step_it_belongs_to():
    """The clip acts on weights after the update: with τ out of reach everything else is the same."""
    plain, clipped = build(), build()
    optimizers = [MuonClip(plain, CONFIG), MuonClip(clipped, CONFIG.model_copy(update={"qk_clip_threshold": 0.01}))]
    assert backward(plain) == backward(clipped)
    figures = [optimizer.step(1.0) for optimizer in optimizers]
    assert figures[0]["qk_clip/heads_clipped"] == 0 and figures[1]["qk_clip/heads_clipped"] == 6
    assert figures[1]["qk_clip/min_gamma"] < 1 == figures[0]["qk_clip/min_gamma"]
    assert figures[0]["qk_clip/max_logit"] == figures[1]["qk_clip/max_logit"] > 0.01
    changed = {n for n in weights(plain) if not torch.equal(weights(plain)[n], weights(clipped)[n])}
    assert {name.rpartition("self_attn.")[2] for name in changed} == {"q_b_proj.weight", "kv_b_proj.weight"}


# Router


def test_router_bias_moves_towards_balance():
    model = build()
    router = model.routers()[0]
    with torch.no_grad():
        router.e_score_correction_bias.copy_(torch.tensor([3.0, 0.0, 0.0, -3.0]))
    imbalance = []
    for _ in range(250):
        with torch.enable_grad():
            model(TOKENS)
        load = update_router_bias(router, 0.02)
        imbalance.append(float(load.max() / load.mean()))
        assert int(router.tokens_per_expert_E.sum()) == 0
        assert abs(float(router.e_score_correction_bias.mean())) < 1e-5
    assert imbalance[0] == 2.0 and imbalance[-1] < 1.2


def test_router_bias_moves_once_a_step_however_many_micro_batches():
    whole, parts = build(), build()
    optimizers = MuonClip(whole, CONFIG), MuonClip(parts, CONFIG)
    backward(whole)
    for part in TOKENS.split(1):
        (0.25 * cross_entropy(parts(part[:, :-1]), part[:, 1:])).backward()
    for optimizer in optimizers:
        optimizer.step(1.0)
    bias = whole.routers()[0].e_score_correction_bias
    assert torch.equal(bias, parts.routers()[0].e_score_correction_bias)
    load = optimizers[0].load_LE[0]
    assert torch.equal(load, optimizers[1].load_LE[0]) and int(load.sum()) == 4 * 24 * 2
    moved = CONFIG.router_bias_rate * (load.mean() - load).sign()
    assert bool(moved.any()) and torch.allclose(bias, moved - moved.mean(), atol=1e-7)
    assert "layers.1.mlp.gate.e_score_correction_bias" in whole.state_dict()  # kept in checkpoints


# The whole


@pytest.mark.parametrize("dense", [False, True], ids=["moe", "dense"])
@pytest.mark.parametrize("attention", ["mla", "mha"])
def test_every_variant_learns(attention, dense):
    changes = {"attention": attention, "first_k_dense_replace": 2 if dense else 1}
    ranks = {} if attention == "mla" else {"q_lora_rank": None, "kv_lora_rank": None}
    torch.manual_seed(0)
    model = Transformer(ModelConfig.model_validate(SHAPE.model_dump() | changes | ranks))
    optimizer = MuonClip(model, CONFIG.model_copy(update={"qk_clip_threshold": 10.0}))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(backward(model))
        figures = optimizer.step(1.0)
    assert losses[-1] < 0.5 * losses[0]
    assert figures["qk_clip/max_logit"] < 11 and any(name.startswith("moe/") for name in figures) != dense


def test_loss_falls_and_metrics_are_bounded():
    model = build()
    optimizer = MuonClip(model, CONFIG)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(backward(model))
        figures = optimizer.step(1.0)
    assert losses[-1] < 0.5 * losses[0]
    assert set(figures) == {
        "lr/adamw", "optim/update_rms", "qk_clip/max_logit", "qk_clip/heads_clipped", "qk_clip/min_gamma",
        "moe/load_imbalance_max", "moe/router_entropy_mean", "moe/bias_spread_max",
    }  # fmt: skip
    assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())
    assert figures["optim/update_rms"] == pytest.approx(0.2, rel=0.2)
    assert 0 < figures["moe/router_entropy_mean"] <= 1 <= figures["moe/load_imbalance_max"] <= 4


def test_every_parameter_has_exactly_one_rule():
    model = build()
    optimizer = MuonClip(model, CONFIG)
    muon = {name for members in optimizer.muon.groups.values() for name, _ in members}
    adamw = {n for n, p in model.named_parameters() if p in optimizer.adamw.state}
    assert muon | adamw == set(dict(model.named_parameters())) and not muon & adamw
    assert {n for n in adamw if not n.endswith("norm.weight")} == {"embed_tokens.weight", "lm_head.weight"}


def test_all_state_is_on_the_device_of_the_weights():
    """Fused AdamW refuses a step count elsewhere; the meta device stands for one that this machine lacks."""
    with torch.device("meta"):
        optimizer = MuonClip(Transformer(SHAPE), CONFIG)
    optimizer.reset_state()
    state = [tensor for entry in optimizer.adamw.state.values() for tensor in entry.values()]
    assert {tensor.device.type for tensor in [*state, *optimizer.muon.buffers.values()]} == {"meta"}


def test_gradients_are_clipped_to_the_global_norm():
    model = build()
    for attention in model.attentions():
        attention.max_logit_H.fill_(0.0)
    optimizer = MuonClip(model, CONFIG.model_copy(update={"max_grad_norm": 0.5}))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert optimizer.gradient_norm() == pytest.approx(math.sqrt(count), rel=1e-5)
    optimizer.step(1.0)
    for name, tensor in optimizer.state_dict().items():
        if name.startswith(("muon/", "adamw/exp_avg/")):
            factor = 1.0 if name.startswith("muon/") else 0.1
            assert torch.allclose(tensor, torch.tensor(factor * 0.5 / math.sqrt(count)), rtol=1e-4), name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_touches_nothing(value):
    model = build()
    optimizer = MuonClip(model, CONFIG)
    backward(model)
    optimizer.step(1.0)
    optimizer.zero_grad()
    backward(model)
    model.layers[1].mlp.experts.down_proj.grad[2, 0, 0] = value
    before, state = weights(model), optimizer.state_dict()
    with pytest.raises(FloatingPointError, match=r"layers\.1\.mlp\.experts\.down_proj"):
        optimizer.step(1.0)
    assert all(torch.equal(before[n], t) for n, t in weights(model).items())
    assert all(torch.equal(state[n], t) for n, t in optimizer.state_dict().items())


def test_a_step_without_backward_is_refused():
    with pytest.raises(ValueError, match="call backward"):
        MuonClip(build(), CONFIG).step(1.0)


def steps(model: Transformer, optimizer: MuonClip, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        backward(model)
        optimizer.step(0.5)


def test_state_survives_a_file_bit_for_bit():
    model = build()
    optimizer = MuonClip(model, CONFIG)
    steps(model, optimizer, 2)
    saved_model, saved_state = weights(model), save(optimizer.state_dict())
    steps(model, optimizer, 3)
    resumed = build(seed=9)
    again = MuonClip(resumed, CONFIG)
    resumed.load_state_dict(saved_model)
    again.load_state_dict(load(saved_state))
    steps(resumed, again, 3)
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(model).items())
    with pytest.raises(ValueError, match="not the state of this model"):
        again.load_state_dict({"muon/other": torch.zeros(1)})


def test_reset_state_forgets_everything():
    model, fresh = build(), build()
    optimizer = MuonClip(model, CONFIG)
    steps(model, optimizer, 3)
    fresh.load_state_dict(model.state_dict())
    optimizer.reset_state()
    steps(model, optimizer, 2)
    steps(fresh, MuonClip(fresh, CONFIG), 2)
    assert all(torch.equal(tensor, weights(fresh)[name]) for name, tensor in weights(model).items())
