"""Activation recomputation and gradient accumulation count every token once."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from k2core.model.loss import cross_entropy
from k2core.training.parallel import recompute_activations

pytestmark = pytest.mark.usefixtures("either_way")

TOKENS = torch.randint(0, 96, (4, 33), generator=torch.Generator().manual_seed(4))


def recompute(module: torch.nn.Module, reentrant: bool) -> list[bool]:
    """Let autograd run `module` again in the backward pass; returns a list that gets an entry per run."""
    inner, runs = module.forward, []

    def counted(*args):
        runs.append(torch.is_grad_enabled())
        return inner(*args)

    module.forward = lambda *args: checkpoint(counted, *args, use_reentrant=reentrant)
    return runs


def train(model, tokens=TOKENS) -> None:
    cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()


@pytest.mark.parametrize("attention", ["mla", "mha"])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("part", ["block", "mlp"])
def test_recomputed_activations_are_seen_once(build, attention, reentrant, part):
    ranks = {} if attention == "mla" else {"q_lora_rank": None, "kv_lora_rank": None}
    plain, again = build(attention=attention, **ranks), build(attention=attention, **ranks)
    runs = [recompute(layer if part == "block" else layer.mlp, reentrant) for layer in again.layers]
    for model in (plain, again):
        train(model)
    assert [len(entries) for entries in runs] == [2, 2, 2]  # it really was recomputed
    for ours, theirs in zip(plain.routers(), again.routers(), strict=True):
        assert int(ours.tokens_per_expert_E.sum()) == 4 * 32 * 2
        assert torch.equal(ours.tokens_per_expert_E, theirs.tokens_per_expert_E)
    for ours, theirs in zip(plain.attentions(), again.attentions(), strict=True):
        assert torch.equal(ours.max_logit_H, theirs.max_logit_H) and bool(ours.max_logit_H.isfinite().all())
    for (name, parameter), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, atol=1e-6), name


def test_an_error_within_the_forward_leaves_nothing_switched_on(build):
    model = build()
    model.layers[2].mlp.forward = None
    with pytest.raises(TypeError):
        model(TOKENS)
    assert not any(module.observing for module in (*model.attentions(), *model.routers()))


def test_two_micro_batches_count_like_one_batch(build):
    whole, parts = build(), build()
    train(whole)
    for part in TOKENS.split(2):
        train(parts, part)
    for ours, theirs in zip(whole.routers(), parts.routers(), strict=True):
        assert torch.equal(ours.tokens_per_expert_E, theirs.tokens_per_expert_E)
    for ours, theirs in zip(whole.attentions(), parts.attentions(), strict=True):
        assert torch.allclose(ours.max_logit_H, theirs.max_logit_H, rtol=1e-5)


def kept_bytes(model) -> int:
    """What a forward and backward pass keeps in between, parameters aside."""
    storages, own = {}, {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        train(model)
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("attention", ["mla", "mha"])
def test_recompute_activations_keeps_the_layers_inputs_alone(build, attention):
    ranks = {} if attention == "mla" else {"q_lora_rank": None, "kv_lora_rank": None}
    plain, again = build(attention=attention, **ranks), build(attention=attention, **ranks)
    names = list(again.state_dict())
    recompute_activations(again)
    assert list(again.state_dict()) == names == list(plain.state_dict())
    kept = kept_bytes(again)
    inputs_and_head = 4 * 4 * 32 * (3 * 32 + 2 * 96 + 4 * 32)  # three layers' inputs; the head's logits and last norm
    assert kept < inputs_and_head * 1.1 and kept < 0.25 * kept_bytes(plain)
    for ours, theirs in zip(plain.routers(), again.routers(), strict=True):
        assert torch.equal(ours.tokens_per_expert_E, theirs.tokens_per_expert_E)
    for ours, theirs in zip(plain.attentions(), again.attentions(), strict=True):
        assert torch.equal(ours.max_logit_H, theirs.max_logit_H) and bool(ours.max_logit_H.isfinite().all())
    for (name, parameter), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
    with torch.no_grad():
        assert torch.equal(plain(TOKENS), again(TOKENS))
