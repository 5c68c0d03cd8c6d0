"""bf16: what is computed in it, what stays fp32, and that training and sampling come out as in fp32."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from k2core import ops
from k2core.data.rows.batch import IGNORE, Batch
from k2core.inference.sampler import generate
from k2core.machine import device
from k2core.model.loss import cross_entropy
from k2core.model.lowered import lowered
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muonclip import MuonClip
from k2core.training.loss import batch_loss
from k2core.training.parallel import recompute_activations

OPTIMIZER = MuonClipConfig(
    muon_lr=0.01, adamw_lr=0.01, momentum=0.95, weight_decay=0.1, adamw_beta1=0.9, adamw_beta2=0.95, adamw_eps=1e-8,
    max_grad_norm=1.0, qk_clip_threshold=100.0, router_bias_rate=0.001,
)  # fmt: skip
VARIANTS = [{}, {"attention": "mha", "q_lora_rank": None, "kv_lora_rank": None}]


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "precision", "bf16")


def counting(step: int) -> Batch:
    start = torch.randint(0, 96, (4, 1), generator=torch.Generator().manual_seed(step))
    tokens = (start + torch.arange(17)) % 96
    segments = (torch.arange(16) > 6).long().expand(4, -1)
    return Batch(tokens[:, :-1], tokens[:, 1:].clone(), torch.arange(16).expand(4, -1), segments)


@pytest.mark.parametrize("changes", VARIANTS, ids=["mla", "mha"])
def test_activations_are_bf16_and_the_rest_is_fp32(build, bf16, monkeypatch, changes):
    model, seen = build(yarn=True, **changes), []

    def noting(name: str) -> None:
        operation = getattr(ops, name)

        def noted(*inputs, **named):
            result = operation(*inputs, **named)
            seen.append((name, result, inputs))
            return result

        monkeypatch.setattr(ops, name, noted)

    for name in ("linear", "rotate", "rms_norm", "routed_experts"):
        noting(name)
    loss = batch_loss(model, counting(0))
    loss.backward()
    assert loss.dtype == torch.float32 and model.hidden(counting(0).tokens_BT).dtype == torch.bfloat16
    types = {name: {result.dtype for n, result, _ in seen if n == name} for name, _, _ in seen}
    assert types["rotate"] == types["rms_norm"] == types["routed_experts"] == {torch.bfloat16}
    assert types["linear"] == {torch.bfloat16, torch.float32}  # the router's
    for name, _, inputs in seen:
        if name == "rotate":
            assert {part.dtype for part in inputs[1]} == {torch.float32}
        if name == "routed_experts":
            assert inputs[2].dtype == torch.float32  # the experts' weights
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.dtype in (torch.float32, torch.long), name
        assert not isinstance(tensor, torch.nn.Parameter) or tensor.grad.dtype == torch.float32, name


@pytest.mark.parametrize("changes", VARIANTS, ids=["mla", "mha"])
def test_fifty_steps_end_where_those_in_fp32_end(build, monkeypatch, changes):
    ends = {}
    for precision in ("fp32", "bf16"):
        monkeypatch.setattr(device, "precision", precision)
        model = build(initializer_range=0.05, **changes)
        optimizer, losses = MuonClip(model, OPTIMIZER), []
        for step in range(50):
            optimizer.zero_grad()
            loss = batch_loss(model, counting(step))
            loss.backward()
            optimizer.step(1.0)
            losses.append(loss.item())
        ends[precision] = sum(losses[-5:]) / 5
    assert ends["bf16"] == pytest.approx(ends["fp32"], rel=0.1) and ends["bf16"] < 0.5 * losses[0]
    assert ends["bf16"] != ends["fp32"]


def test_without_bf16_nothing_is_converted(build):
    """Loss and gradients are the bits of head, loss and mean one after the other."""
    one, other, batch = build(), build(), counting(0)
    batch.targets_BT[:, ::3] = IGNORE
    batch_loss(one, batch).backward()
    wanted = batch.targets_BT != IGNORE
    logits = other(batch.tokens_BT, batch.positions_BT, batch.segments_BT, wanted)
    cross_entropy(logits, batch.targets_BT[wanted]).backward()
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    assert lowered(one) is one


@pytest.mark.parametrize("changes", VARIANTS, ids=["mla", "mha"])
def test_what_is_sampled_has_the_probability_that_training_gives_it(build, bf16, changes):
    model = build(**changes)
    given = [[1, 2, 3], [4, 5], [6] * 9]
    completions = generate(model, given, max_new_tokens=12, temperature=1.0, stop_ids={0}, seed=3)
    for prompt, completion in zip(given, completions, strict=True):
        text = torch.tensor([prompt + completion.tokens])
        with torch.no_grad():
            expected = model(text).float().log_softmax(-1)[0, len(prompt) - 1 : -1]
        found = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        assert torch.allclose(found, torch.tensor(completion.log_probs), atol=0.5)
        assert float((found - torch.tensor(completion.log_probs)).abs().mean()) < 0.1


def test_a_lowered_model_is_a_copy_that_gives_the_same(build, bf16):
    model = build()
    recompute_activations(model)
    twin, tokens = lowered(model), counting(0).tokens_BT
    with torch.no_grad():
        before: Tensor = model(tokens)
        assert torch.equal(twin(tokens), before)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(twin(tokens), before)
    kept = {name for name, parameter in twin.named_parameters() if parameter.dtype == torch.float32}
    assert {re.sub(r"layers\.\d+\.", "", name) for name in kept} == {
        "norm.weight", "input_layernorm.weight", "post_attention_layernorm.weight", "mlp.gate.weight",
        "self_attn.q_a_layernorm.weight", "self_attn.kv_a_layernorm.weight",
    }  # fmt: skip
    assert lowered(twin) is twin
