"""Each kernel against the torch operations that it stands for, forward and backward, at awkward shapes."""

from __future__ import annotations

import math
import os

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from k2core.inference.sampler import _sample
from k2core.model.attention import Attention
from k2core.model.experts import apply_experts, swiglu
from k2core.model.linear import grouped_linear, linear
from k2core.model.loss import token_losses
from k2core.model.norm import RMSNorm
from k2core.model.rope import rotate
from k2core.model.visibility import WholeRows
from k2core.ops.cpu import autograd
from k2core.ops.cpu.build import eager, library, usable
from k2core.optim.muon import COEFFICIENTS, STEPS

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")
LENGTHS = [1, 3, 12, 33, 100]


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request, monkeypatch):
    """Also fills what `empty` gives with NaN, so that nothing a kernel leaves out passes for a result."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(request.param)
    torch.set_deterministic_debug_mode("error")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield
    torch.set_num_threads(before[0])
    torch.set_deterministic_debug_mode(before[1])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_equal(ours, theirs, inputs: list[Tensor]) -> None:
    """Results and gradients, the latter with random weights on the result, to fp32 rounding."""
    results = []
    for function in (ours, theirs):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        (out * random(*out.shape, seed=9)).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for mine, other in zip(*results, strict=True):
        assert mine.shape == other.shape
        assert float((mine - other).norm()) <= 1e-5 * float(other.norm()) + 1e-5


@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize("width", [1, 20, 64])
def test_rms_norm_of_rows_that_lie_apart(rows, width):
    def theirs(x, weight):
        return weight * F.rms_norm(x[:, :width], (width,), eps=1e-6)

    def ours(x, weight):
        return autograd.RMSNorm.apply(x[:, :width], weight, 1e-6)

    assert_equal(ours, theirs, [random(rows, width + 5), random(width, seed=1)])


@pytest.mark.parametrize("rows", LENGTHS)
def test_swiglu(rows):
    def theirs(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    assert_equal(autograd.SwiGLU.apply, theirs, [3 * random(rows, 2 * 21)])


@pytest.mark.parametrize("ends", [[7], [0, 5, 5, 40], [100, 130, 131, 131], [600]])
@pytest.mark.parametrize(("depth", "width"), [(1, 1), (17, 40), (64, 33), (130, 16)])
def test_linear_layers_one_or_a_stack(ends, depth, width):
    """Layers without a row, rows in no multiple of any block, and an inner dimension longer than one."""

    def theirs(x, weights):
        starts = [0, *ends[:-1]]
        return torch.cat([x[a:b] @ w.T for a, b, w in zip(starts, ends, weights, strict=True)])

    def ours(x, weights):
        return autograd.Linear.apply(x, torch.tensor(ends, dtype=torch.int32), weights)

    assert_equal(ours, theirs, [random(ends[-1], depth), random(len(ends), width, depth, seed=1)])


def test_linear_layers_without_any_row():
    x, weights = torch.empty(0, 8, requires_grad=True), random(2, 5, 8).requires_grad_()
    autograd.Linear.apply(x, torch.zeros(2, dtype=torch.int32), weights).sum().backward()
    assert x.grad.shape == (0, 8)
    assert not weights.grad.any()


@pytest.mark.parametrize(("tokens", "choices", "experts"), [(1, 1, 2), (50, 3, 8), (9, 2, 2)])
def test_tokens_go_to_their_experts_and_back(tokens, choices, experts):
    chosen = torch.stack([torch.randperm(experts)[:choices] for _ in range(tokens)])
    place, token, ends = autograd.sort_visits(chosen, experts)
    assert ends.tolist() == torch.bincount(chosen.flatten(), minlength=experts).cumsum(0).tolist()
    order = chosen.flatten().argsort(stable=True)
    assert token.tolist() == (order // choices).tolist()
    assert place.flatten()[order].tolist() == list(range(tokens * choices))

    def ours(x, weights):
        return autograd.Combine.apply(2 * autograd.Gather.apply(x, token, place), place, weights)

    def theirs(x, weights):
        return 2 * x * weights.sum(1, keepdim=True)

    assert_equal(ours, theirs, [random(tokens, 10), random(tokens, choices, seed=1)])


@pytest.mark.parametrize("rows", LENGTHS)
@pytest.mark.parametrize("vocabulary", [2, 31, 200])
def test_cross_entropy(rows, vocabulary):
    targets = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(1))
    targets[::3] = -100
    assert_equal(
        lambda logits: autograd.CrossEntropy.apply(logits, targets, -100),
        lambda logits: F.cross_entropy(logits, targets, ignore_index=-100, reduction="none"),
        [20 * random(rows, vocabulary)],
    )


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_target_that_is_no_token_is_an_error(wrong):
    with pytest.raises(IndexError, match=r"1 targets are no token.*0 to 4"):
        autograd.CrossEntropy.apply(random(3, 5), torch.tensor([0, wrong, -100]), -100)


@pytest.mark.parametrize("length", [1, 3, 100, 300])
@pytest.mark.parametrize(("heads", "nope", "rope", "value"), [(1, 4, 2, 4), (3, 20, 6, 33), (2, 32, 16, 32)])
@pytest.mark.parametrize("documents", [1, 5])
def test_attention(length, heads, nope, rope, value, documents):
    """Against the eager one; with packed documents, other ones in each row, and a key that lies in a wider row.

    300 tokens are three blocks of queries, of which the later ones do not see the first documents.
    """
    attention = Attention.__new__(Attention)
    torch.nn.Module.__init__(attention)
    attention.heads, attention.nope, attention.rope, attention.observing = heads, nope, rope, False
    cuts = torch.arange(length) * documents
    segments = None if documents == 1 else torch.stack([cuts // length, (cuts + length // 2) // length])
    angles = random(2 if documents > 1 else 1, length, rope // 2, seed=5)
    cos, sin = angles.cos(), angles.sin()
    queries, own = random(2, length, heads, nope + rope), random(2, length, heads, nope + value, seed=1)
    reach = WholeRows().reach(length, segments, queries)
    largest = {}

    def ours(queries, own, shared):
        out, largest["ours"] = autograd.Attention.apply(
            queries, own, shared[..., 3:], cos, sin, reach.mask_B1TS, reach.blocks, 0.3
        )
        return out.flatten(2)

    def theirs(queries, own, shared):
        turned = rotate(0.3 * queries[..., nope:], (cos[:, :, None], sin[:, :, None]))
        q = torch.cat([0.3 * queries[..., :nope], turned], dim=-1)
        k = torch.cat([own[..., :nope], shared[..., 3:].unsqueeze(2).expand(-1, -1, heads, -1)], dim=-1)
        logits = torch.einsum("bthd,bshd->bhts", q, k) + reach.mask_B1TS
        largest["theirs"] = logits.detach().amax((2, 3))
        return attention.attend(q, k, own[..., nope:], reach)

    assert_equal(ours, theirs, [queries, own, random(2, length, 3 + rope, seed=2)])
    assert torch.allclose(largest["ours"], largest["theirs"], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 40), (2, 40, 5), (5, 33, 33), (2, 64, 70)])
def test_newton_schulz(shape):
    a, b, c = COEFFICIENTS
    matrices = random(*shape)
    matrices[0] *= 1e-3
    x = matrices if shape[1] <= shape[2] else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    expected = x if shape[1] <= shape[2] else x.mT
    before = matrices.clone()
    assert torch.allclose(autograd.newton_schulz(matrices, STEPS, COEFFICIENTS), expected, atol=2e-5)
    assert torch.equal(matrices, before)
    assert not autograd.newton_schulz(torch.zeros(shape), STEPS, COEFFICIENTS).any()


def test_sampling():
    """The token that holds each number of the unit interval, at its ends and on borders; none of probability 0."""
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf, 0.5, -math.inf]])
    for temperature in (0.7, 1.0):
        probabilities = (logits[0] / temperature).softmax(0)
        borders = probabilities.cumsum(0)
        drawn = torch.cat([torch.tensor([1e-30, 1.0]), borders[1:5] - 1e-3, borders[1:4] + 1e-3])
        tokens, log_probs = autograd.sample(logits.expand(len(drawn), -1), temperature, drawn)
        assert tokens.tolist() == [1, 4, 1, 2, 2, 4, 2, 4, 4]
        assert torch.allclose(log_probs, probabilities.log()[tokens], atol=1e-6)
    logits = 3 * random(40, 333)
    tokens, log_probs = autograd.sample(logits, 0.0, torch.ones(40))
    assert torch.equal(tokens, logits.argmax(1))
    assert torch.allclose(log_probs, logits.log_softmax(1).amax(1), atol=1e-5)
    random_tokens, _ = autograd.sample(logits, 1.3, torch.rand(40, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(random_tokens, tokens)


def test_what_is_not_a_number_stays_so():
    """The trainer refuses a step whose gradient is not finite: nothing may hide it."""
    for bad in (math.nan, math.inf):
        for function, shape in [
            (lambda x: autograd.RMSNorm.apply(x, torch.ones(40), 1e-6), (3, 40)),
            (autograd.SwiGLU.apply, (3, 40)),
            (lambda x: autograd.Linear.apply(x, torch.tensor([3], dtype=torch.int32), random(1, 7, 40)), (3, 40)),
            (lambda x: autograd.CrossEntropy.apply(x, torch.tensor([1, 2, 3]), -100), (3, 40)),
        ]:
            x = random(*shape)
            x[1, 17] = bad
            x.requires_grad_()
            out = function(x)
            out.sum().backward()
            assert not out[1].isfinite().all() or not x.grad[1].isfinite().all()


def test_results_repeat_bit_for_bit():
    def once():
        x, w = random(500, 96).requires_grad_(), random(1, 70, 96, seed=1).requires_grad_()
        y = autograd.Linear.apply(x, torch.tensor([500], dtype=torch.int32), w)
        autograd.RMSNorm.apply(y, torch.ones(70, requires_grad=True), 1e-6).square().sum().backward()
        return torch.cat([x.grad.flatten(), w.grad.flatten()])

    assert torch.equal(once(), once())


@pytest.mark.parametrize("wrong", [
    lambda: linear(random(4, 5), random(2, 3)),
    lambda: grouped_linear(random(4, 3), random(2, 6, 3), torch.tensor([1, 5], dtype=torch.int32)),
    lambda: autograd.RMSNorm.apply(random(4, 5), random(3), 1e-6),
    lambda: token_losses(random(4, 5), torch.tensor([1, 2])),
    lambda: token_losses(random(2, 5), torch.tensor([1, 2], dtype=torch.int32)),
    lambda: autograd.sort_visits(torch.tensor([[0], [2]]), 2),
    lambda: autograd.sample(random(2, 5), 1.0, torch.ones(1)),
])  # fmt: skip
def test_what_does_not_fit_is_an_error_and_is_not_read(wrong):
    with pytest.raises((ValueError, IndexError), match=r"do not fit|none of the 2"):
        wrong()


def test_a_model_that_has_diverged_is_not_sampled_from():
    with pytest.raises(FloatingPointError, match="diverged"):
        autograd.sample(torch.full((2, 5), math.nan), 1.0, torch.ones(2))


@pytest.mark.parametrize("name", ["linear", "grouped_linear", "swiglu", "experts", "norm", "losses", "sample"])
def test_callers_do_the_same_without_the_kernels(name):
    """The torch operations in the model's own files, which are what is meant."""
    chosen, weights = torch.stack([torch.randperm(4)[:2] for _ in range(30)]), random(30, 2, seed=3).abs()
    function, inputs = {
        "linear": (linear, [random(2, 15, 8), random(12, 8, seed=1)]),
        "grouped_linear": (
            lambda x, w: grouped_linear(x, w, torch.tensor([3, 3, 30], dtype=torch.int32)),
            [random(30, 8), random(3, 12, 8, seed=1)],
        ),
        "swiglu": (swiglu, [random(2, 15, 8)]),
        "experts": (
            lambda x, weights, up, down: apply_experts(x, chosen, weights, up, down),
            [random(30, 8), weights, random(4, 2, 12, 8, seed=1), random(4, 8, 12, seed=2)],
        ),
        "norm": (RMSNorm(8, 1e-6), [random(2, 15, 8)]),
        "losses": (lambda x: token_losses(x, chosen[:, 0]), [random(30, 8)]),
        "sample": (lambda x: torch.stack(_sample(x, 0.8, torch.linspace(0.01, 1, 30).tolist())), [random(30, 8)]),
    }[name]

    def without(*inputs):
        with eager():
            return function(*inputs)

    if name == "sample":
        assert torch.allclose(function(*inputs), without(*inputs), atol=1e-5)
    else:
        assert_equal(function, without, inputs)


def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent():
    x = random(1000, 64)
    expected = autograd.SwiGLU.apply(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(autograd.SwiGLU.apply(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_other_tensors_are_left_to_torch():
    assert usable(torch.ones(2), torch.nn.Parameter(torch.ones(2)))
    assert not usable(torch.ones(2), torch.ones(2, dtype=torch.bfloat16))
    assert not usable(torch.ones(2, device="meta"))
