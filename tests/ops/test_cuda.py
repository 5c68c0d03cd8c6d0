"""What the backend `cuda` promises beside the reference's numbers, as far as a CPU can show it.

FlexAttention has no backward pass on a CPU: where one is needed, the same mask over plain products stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_backends import cuda_on_the_cpu, random
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.utils._python_dispatch import TorchDispatchMode

from k2core.data.rows.batch import Batch
from k2core.machine import device
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.ops import using
from k2core.ops.cuda import attention, experts, head
from k2core.ops.cuda.operations import cumulative
from k2core.optim.qk_clip import qk_clip
from k2core.training.parallel import compile_layers, recompute_activations
from k2core.training.ranks import Ranks

__all__ = ["cuda_on_the_cpu"]  # a fixture
SHAPE = ModelConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3,
    num_attention_heads=2, attention="mla", q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
    v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
    routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=None, max_position_embeddings=64, rms_norm_eps=1e-6,
    initializer_range=0.2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a stage, nothing may compute what does not repeat; and memory is full of NaN before it is written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(before)


def build() -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPE)


def products(q: Tensor, k: Tensor, v: Tensor, mask, scale: float) -> tuple[Tensor, Tensor]:
    """What `attention.scores` gives, with the mask that FlexAttention would get."""
    b, t, s = torch.arange(len(q))[:, None, None, None], torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    logits = (scale * q @ k.mT).masked_fill(~mask.mask_mod(b, b, t, s), -torch.inf)
    return logits.softmax(-1) @ v, logits.detach().amax(-1)


@pytest.fixture
def plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "scores", products)


def segments(step: int) -> Tensor:
    return (torch.arange(40) // torch.tensor([[9 + step], [17 - step]])).long()


def passed(model: Transformer, step: int, setting: str) -> list[Tensor]:
    """Loss, gradients, largest logits and loads of a step."""
    tokens = torch.randint(96, (2, 41), generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    with using(setting):
        loss = model(tokens[:, :-1], segments_BT=segments(step), targets_BT=tokens[:, 1:])
        loss.backward()
    seen = [attention.max_logit_H.clone() for attention in model.attentions()]
    return [
        loss.detach(), *(p.grad for p in model.parameters()), *seen, *(r.tokens_per_expert_E for r in model.routers())
    ]  # fmt: skip


def assert_alike(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=2e-4, rtol=1e-4)


def test_a_whole_model_gives_what_the_reference_gives(plain_products):
    assert_alike(passed(build(), 0, "cuda"), passed(build(), 0, "reference"))


def test_flex_attention_and_the_products_that_stand_for_it_are_one():
    model, others = build(), build()
    tokens = torch.randint(96, (2, 40))
    with torch.no_grad(), using("cuda"):
        flex = model(tokens, segments_BT=segments(0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "scores", products)
            assert torch.allclose(others(tokens, segments_BT=segments(0)), flex, atol=1e-4)


class Looks(TorchDispatchMode):
    """What a GPU would be waited for, in order: a value of a tensor, or a size that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.seen.append(func.__name__)
        masks = args[1] if func is torch.ops.aten.index.Tensor else ()
        if any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.seen.append("index by a mask")
        return func(*args, **(kwargs or {}))


def test_passes_follow_each_other_without_a_look_at_the_gpu(plain_products, monkeypatch):
    """At widths of FlexAttention the host looks at a step's losses alone, when all its passes have been started."""
    monkeypatch.setattr(device, "precision", "bf16")
    model, events, backward = build(), [], torch.Tensor.backward
    tokens = torch.randint(96, (2, 41), generator=torch.Generator().manual_seed(0))
    columns = torch.arange(40).expand(2, -1)
    batches = [Batch(tokens[:, :-1], tokens[:, 1:], columns, segments(step)) for step in range(3)]

    def noted(loss: Tensor) -> None:
        events.append(list(looks.seen))
        backward(loss)

    monkeypatch.setattr(torch.Tensor, "backward", noted)
    with using("cuda"), Looks() as looks:
        Ranks().backward(model, batches, 240.0)
    assert events == [[], [], []] and looks.seen == ["_local_scalar_dense.default"] * 3


@pytest.mark.parametrize("recomputed", [False, True])
def test_compiled_layers_are_whole_graphs_made_once(plain_products, monkeypatch, recomputed):
    """Other documents in the rows need no new code; dense layers and those with experts have one each."""
    monkeypatch.setattr(device, "precision", "bf16")  # the compiler takes no grouped products in fp32
    model, other = build(), build()
    compile_layers(model, backend="eager", fullgraph=True)
    if recomputed:
        recompute_activations(model)
    assert_alike(passed(model, 0, "cuda"), passed(other, 0, "cuda"))
    with dynamo.patch(error_on_recompile=True):
        for step in (1, 2):
            assert_alike(passed(model, step, "cuda"), passed(other, step, "cuda"))
    torch._dynamo.reset()


def test_flex_attention_and_its_mask_are_part_of_a_compiled_layer():
    """Its forward pass, which is all that a CPU has."""
    model, other = build().requires_grad_(False), build().requires_grad_(False)
    compile_layers(model, backend="eager", fullgraph=True)
    for step in range(3):
        tokens = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(step))
        with using("cuda"), dynamo.patch(error_on_recompile=step > 0):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(device, "precision", "bf16")
                found = model(tokens, segments_BT=segments(step))
                expected = other(tokens, segments_BT=segments(step))
        assert torch.allclose(found, expected, atol=5e-2), step
    torch._dynamo.reset()


def test_every_visit_has_a_row_and_empty_experts_have_none():
    chosen = torch.tensor([[5, 1], [1, 5], [1, 7], [5, 7]])
    order, token, place, ends = experts.sort_visits(chosen, 9)
    assert ends.tolist() == [0, 3, 3, 3, 3, 6, 6, 8, 8] and ends.dtype == torch.int32
    assert token.tolist() == [0, 1, 2, 0, 1, 3, 2, 3]
    assert chosen.flatten()[order].tolist() == sorted(chosen.flatten().tolist())
    assert torch.equal(order[place].flatten(), torch.arange(8))


def test_tokens_and_gradients_travel_by_gathers():
    """Against the definition, with NaN wherever memory is not written (the fixture `strict`)."""
    chosen, x, weights = torch.tensor([[5, 1], [1, 5], [1, 7], [5, 7]]), random(4, 3), random(4, 2, seed=1)
    order, token, place, _ = experts.sort_visits(chosen, 9)
    leaves = [leaf.clone().requires_grad_() for leaf in (x, weights)]
    out = experts.Combine.apply(3 * experts.Gather.apply(leaves[0], token, place), leaves[1], order, token, place)
    expected_leaves = [leaf.clone().requires_grad_() for leaf in (x, weights)]
    expected = 3 * expected_leaves[0] * expected_leaves[1].sum(1, keepdim=True)
    for result in (out, expected):
        (result * random(4, 3, seed=2)).sum().backward()
    assert torch.allclose(out, expected)
    for ours, theirs in zip(leaves, expected_leaves, strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_logits_are_made_a_few_rows_at_a_time(monkeypatch):
    """However many: loss and gradients are the same, and never are there more logits than allowed."""
    hidden, weight = random(50, 8), random(31, 8, seed=1)
    targets = torch.where(torch.arange(50) % 3 == 0, -100, torch.arange(50) % 31)
    seen, plain = [], head._plain_loss

    def noted(logits, *rest):
        seen.append(logits.numel())
        return plain(logits, *rest)

    monkeypatch.setattr(head, "_plain_loss", noted)
    results = []
    for most in (7 * 31, 10**9):
        monkeypatch.setattr(head, "LOGITS", most)
        leaves = [leaf.clone().requires_grad_() for leaf in (hidden, weight)]
        loss = head.HeadLoss.apply(*leaves, targets, -100)
        (0.3 * loss).backward()
        results.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    assert_alike(*results)
    assert seen == [7 * 31] * 7 + [31, 50 * 31]


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 5000])
def test_sums_never_fall_and_rise_at_no_zero(vocabulary):
    x = random(3, vocabulary).softmax(-1)
    x[:, ::7] = 0
    sums = cumulative(x)
    assert torch.allclose(sums, x.cumsum(1), atol=1e-6)
    rises = sums.diff(dim=1, prepend=torch.zeros(3, 1))
    assert bool((rises >= 0).all()) and bool((rises[x == 0] == 0).all())


def test_narrow_heads_are_left_to_the_reference(monkeypatch):
    monkeypatch.setattr(attention, "scores", None)
    torch.manual_seed(0)
    model = Transformer(SHAPE.model_copy(update={"v_head_dim": 8}))
    with using("cuda"):
        out = model(torch.randint(96, (2, 12)))
    assert bool(out.isfinite().all())


def test_the_largest_logits_clip_the_same_heads(plain_products):
    ours, theirs = build(), build()
    passed(ours, 0, "cuda")
    passed(theirs, 0, "reference")
    for one, other in zip(ours.attentions(), theirs.attentions(), strict=True):
        threshold = float(other.max_logit_H.min()) + 1e-3
        assert torch.allclose(qk_clip(one, threshold), qk_clip(other, threshold), atol=1e-4)
