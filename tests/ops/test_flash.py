"""The log-sum-exp rule of `ops/cuda/flash.py`, with torch's flash kernel for CPUs, which gives the log-sum-exp too."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from test_backends import cuda_on_the_cpu, random
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._subclasses.fake_tensor import FakeTensorMode

from k2core.machine import device
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.model.visibility import WholeRows
from k2core.ops import BRANCH, Reach, reference, using
from k2core.ops.cuda import attention, flash
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muonclip import MuonClip
from k2core.training.parallel import compile_layers

__all__ = ["cuda_on_the_cpu"]  # a fixture
H, D, V = 3, 24, 16
KERNEL, SCORES = flash.kernel, attention.scores
SHAPE = ModelConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=H, attention="mla", q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8,
    v_head_dim=V, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
    routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=None, max_position_embeddings=64, rms_norm_eps=1e-6,
    initializer_range=0.3,
)  # fmt: skip


def per_document(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float) -> tuple[Tensor, Tensor]:
    """`flash.kernel` by the kernel for CPUs, one document after the other."""
    outs, sums = [], []
    for start, end in pairwise(starts.tolist()):
        assert 0 < end - start <= longest
        part = (x[None, start:end].transpose(1, 2) for x in (q, k, v))
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*part, 0.0, True, scale=scale)
        outs.append(out[0].transpose(0, 1))
        sums.append(lse[0])
    return torch.cat(outs), torch.cat(sums, dim=1)


def at_once(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, scale: float) -> tuple[Tensor, Tensor]:
    """The same in one product, which the compiler can follow."""
    place = torch.arange(len(q))
    document = torch.bucketize(place, starts, right=True)
    seen = (place[:, None] >= place) & (document[:, None] == document)
    logits = torch.einsum("nhw,mhw->hnm", q * scale, k).masked_fill(~seen, -torch.inf)
    return torch.einsum("hnm,mhw->nhw", logits.softmax(-1), v), logits.logsumexp(-1)


def by_blocks(q: Tensor, k: Tensor, v: Tensor, mask, scale: float) -> tuple[Tensor, Tensor]:
    """`attention.scores` as on a GPU: a head without blocks has no scores there; a CPU does not look at blocks."""
    out, largest = SCORES(q, k, v, mask, scale)
    blocks = mask.kv_num_blocks + mask.full_kv_num_blocks
    seen = blocks.repeat_interleave(mask.BLOCK_SIZE[0], dim=-1)[..., : q.shape[2]] > 0
    return out, largest.masked_fill(~seen, -torch.inf)


@pytest.fixture(autouse=True)
def flash_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In fp32, so that the reference can be met closely; memory is full of NaN before it is written."""
    monkeypatch.setattr(flash, "WIDTHS", {(D, V)})
    monkeypatch.setattr(flash, "TYPES", (torch.float32, torch.bfloat16))
    monkeypatch.setattr(flash, "kernel", per_document)
    monkeypatch.setattr(attention, "scores", by_blocks)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(before)


def heads(seed: int, B: int = 2, T: int = 150) -> list[Tensor]:
    return [random(B, T, H, width, seed=seed + n).requires_grad_() for n, width in enumerate((D, D, V))]


def reach_of(T: int, segments: Tensor | None, above: float = -math.inf) -> Reach:
    return replace(WholeRows().reach(T, segments), above=above)


def packed(*lengths: int) -> Tensor:
    """Segments of a row of documents of these lengths."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None]


CASES = {
    "one document": None,
    "the same documents in all rows": packed(1, 70, 79),
    "other documents in each row": torch.cat([packed(40, 60, 50), packed(149, 1)]),
}


@pytest.mark.parametrize("segments", CASES.values(), ids=CASES)
def test_results_and_gradients_are_the_references(segments):
    found = []
    for attend in (
        lambda *x: attention.plain(*x, 0.7),
        lambda q, k, v, reach: reference.attention(0.7 * q, k, v, reach),
    ):
        leaves = heads(0)
        out, largest = attend(*leaves, reach_of(150, segments))
        (out * random(*out.shape, seed=9)).sum().backward()
        found.append([out.detach(), largest, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_largest_logits_are_exact_above_the_threshold_and_absent_below(seed):
    """Around every head's own largest logit, and where the log-sum-exp exceeds the threshold but no logit does."""
    q, k, v = heads(10 * seed)
    segments = CASES["other documents in each row"]
    exact = reference.attention(q, k, v, reach_of(150, segments))[1].detach()
    per_head = exact.amax(0)
    for threshold in [*(per_head + 0.1), *(per_head - 0.1), per_head.max() + 1.0, per_head.min() - 50.0]:
        found = attention.plain(q, k, v, reach_of(150, segments, float(threshold)), 1.0)[1]
        assert torch.allclose(found, torch.where(exact > threshold, exact, -torch.inf), atol=1e-4)


def test_a_pass_is_made_for_those_heads_alone_that_may_exceed_the_threshold(monkeypatch):
    """Head 0 is far below; head 1 has 150 equal logits, whose log-sum-exp alone exceeds it; head 2 is above."""
    q, k, v = (x.detach() for x in heads(0))
    with torch.no_grad():
        q[..., 1:] = 0
        q[..., 0] = torch.tensor([1.0, 8.0, 12.0])
        k[..., 0] = 1.0
    asked, scores = [], attention.scores

    def noted(q: Tensor, k: Tensor, v: Tensor, mask, scale: float) -> tuple[Tensor, Tensor]:
        asked.append(mask)
        return scores(q, k, v, mask, scale)

    monkeypatch.setattr(attention, "scores", noted)
    largest = attention.plain(q, k, v, reach_of(150, None, 10.0), 1.0)[1]
    assert torch.allclose(largest, torch.tensor([-math.inf, -math.inf, 12.0]).expand(2, -1))
    [mask] = asked
    blocks = mask.kv_num_blocks + mask.full_kv_num_blocks
    assert blocks.shape[1] == H and [bool(blocks[:, head].any()) for head in range(H)] == [False, True, True]


def test_a_head_just_above_the_threshold_is_not_lost_to_rounding(monkeypatch):
    """One key, so the log-sum-exp is the logit itself, and this kernel rounds it down below the threshold."""

    def rounded_down(*given) -> tuple[Tensor, Tensor]:
        out, lse = per_document(*given)
        return out, lse - 5e-4 * lse.abs()

    monkeypatch.setattr(flash, "kernel", rounded_down)
    q, k, v = (x.detach() for x in heads(3, B=1, T=1))
    largest = (q * k).sum(-1)[0, 0]
    for head in largest.argsort().tolist():
        threshold = float(largest[head] - 1e-4 * largest[head].abs())
        found = attention.plain(q, k, v, reach_of(1, None, threshold), 1.0)[1][0]
        assert found[head] == pytest.approx(float(largest[head]), rel=1e-5)


def test_torchs_kernel_takes_what_it_is_given():
    """As far as shapes and types go, forward and backward: it computes on GPUs alone."""
    with FakeTensorMode():
        leaves = [torch.empty(2, 64, H, width, dtype=torch.bfloat16, requires_grad=True) for width in (D, D, V)]
        starts = torch.empty(4, dtype=torch.int32)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flash, "kernel", KERNEL)
            out, bound = flash.attend(*leaves, starts, 0.1)
        out.float().sum().backward()
    assert (out.shape, out.dtype) == ((2, 64, H, V), torch.bfloat16)
    assert (bound.shape, bound.dtype, bound.requires_grad) == ((H,), torch.float32, False)
    assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves)


def branches() -> Tensor:
    return torch.tensor([[0] * 60 + [BRANCH] * 45 + [2 * BRANCH] * 45])


@pytest.mark.parametrize("segments", [branches(), packed(50, 100).flip(1)], ids=["branches", "numbers that fall"])
def test_what_is_no_row_of_documents_stays_with_flex_attention(monkeypatch, segments):
    monkeypatch.setattr(flash, "kernel", None)
    q, k, v = (x.detach() for x in heads(0))
    reach = reach_of(150, segments)
    out, largest = attention.plain(q, k, v, reach, 1.0)
    expected = reference.attention(q, k, v, reach)
    assert torch.allclose(out, expected[0], atol=1e-4) and torch.allclose(largest, expected[1].expand(2, -1), atol=1e-4)


def stepped(setting: str, threshold: float, logged: bool) -> tuple[list[Tensor], dict[str, float], MuonClip]:
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    rates = dict(muon_lr=0.1, adamw_lr=0.1, momentum=0.9, weight_decay=0.1, adamw_beta1=0.9, adamw_beta2=0.95)
    optimizer = MuonClip(model, MuonClipConfig(
        **rates, adamw_eps=1e-8, max_grad_norm=1.0, qk_clip_threshold=threshold, router_bias_rate=0.001,
    ))  # fmt: skip
    figures: dict[str, float] = {}
    with using(setting):
        for step in range(3):
            optimizer.zero_grad(logged=logged)
            for part in range(2):  # portions of a step: a head may exceed the threshold in one of them
                tokens = torch.randint(64, (2, 41), generator=torch.Generator().manual_seed(2 * step + part))
                segments = torch.cat([packed(11, 29), packed(30, 10)])
                model(tokens[:, :-1], segments_BT=segments, targets_BT=tokens[:, 1:]).backward()
            figures = optimizer.step(1.0)
    return [p.detach() for p in model.parameters()], figures, optimizer


@pytest.mark.parametrize("logged", [False, True])
def test_qk_clip_clips_the_same_heads_by_as_much(logged):
    highest = stepped("reference", 1e9, True)[2].max_logit_LH.flatten().sort().values
    threshold = float(highest[len(highest) // 2])
    ours, found, optimizer = stepped("cuda", threshold, logged)
    theirs, expected, other = stepped("reference", threshold, True)
    assert 0 < expected["qk_clip/heads_clipped"] < highest.numel()
    assert torch.allclose(optimizer.gamma_LH, other.gamma_LH, atol=1e-4)
    assert torch.equal(optimizer.gamma_LH < 1, other.gamma_LH < 1)
    for one, another in zip(ours, theirs, strict=True):
        assert torch.allclose(one, another, atol=2e-3)
    known = other.max_logit_LH if logged else other.max_logit_LH.where(other.max_logit_LH > threshold, -math.inf)
    assert torch.allclose(optimizer.max_logit_LH, known, atol=1e-3)
    assert found["qk_clip/max_logit"] == pytest.approx(expected["qk_clip/max_logit"], abs=1e-3)


def test_a_step_without_a_clipped_head_names_no_largest_logit_unless_it_is_logged():
    assert "qk_clip/max_logit" not in stepped("cuda", 1e9, False)[1]
    assert stepped("cuda", 1e9, True)[1]["qk_clip/max_logit"] > 0


def test_compiled_layers_are_whole_graphs_made_once(monkeypatch):
    """Whatever the number of documents, and whether the step is logged."""
    monkeypatch.setattr(device, "precision", "bf16")  # the compiler takes no grouped products in fp32
    monkeypatch.setattr(flash, "kernel", at_once)
    torch.manual_seed(0)
    model, other = Transformer(SHAPE), Transformer(SHAPE)
    other.load_state_dict(model.state_dict())
    compile_layers(model, backend="eager", fullgraph=True)
    for step, lengths in enumerate([(11, 29), (1, 2, 37), (5, 5, 5, 5, 20), (40,)]):
        tokens = torch.randint(64, (1, 41), generator=torch.Generator().manual_seed(step))
        losses = []
        for one in (model, other):
            one.zero_grad()
            one.logits_above = 0.1 if step % 2 else -math.inf
            with using("cuda"), dynamo.patch(error_on_recompile=step > 0):
                loss = one(tokens[:, :-1], segments_BT=packed(*lengths), targets_BT=tokens[:, 1:])
                loss.backward()
            losses.append(loss.detach())
        assert torch.allclose(*losses, rtol=2e-2)
    torch._dynamo.reset()
