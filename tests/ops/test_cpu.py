"""What the kernels in C promise beside the reference's numbers: faults, not-a-number, repetition, forks."""

from __future__ import annotations

import math
import os

import pytest
import torch
from test_backends import QUINTIC, needs_compiler, random, threads

from k2core import ops
from k2core.ops import using
from k2core.ops.cpu import autograd

__all__ = ["threads"]  # a fixture
pytestmark = [needs_compiler, pytest.mark.usefixtures("kernels")]
TARGETS = torch.tensor([1, 2, 3])


@pytest.fixture
def kernels():
    with using("cpu"):
        yield


@pytest.mark.parametrize("ends", [[0, 5, 5, 40], [100, 130, 131, 131], [600]])
@pytest.mark.parametrize(("depth", "width"), [(1, 1), (17, 40), (64, 33), (130, 16)])
def test_a_stack_of_linear_layers_of_any_width(ends, depth, width):
    """The reference takes multiples of four only."""
    results, starts = [], [0, *ends[:-1]]
    for grouped in (True, False):
        x = random(ends[-1], depth).requires_grad_()
        weights = random(len(ends), width, depth, seed=1).requires_grad_()
        if grouped:
            y = ops.grouped_linear(x, weights, torch.tensor(ends, dtype=torch.int32))
        else:
            y = torch.cat([x[a:b] @ w.T for a, b, w in zip(starts, ends, weights, strict=True)])
        (y * random(*y.shape, seed=9)).sum().backward()
        results.append([y.detach(), x.grad, weights.grad])
    for ours, theirs in zip(*results, strict=True):
        assert float((ours - theirs).norm()) <= 1e-5 * float(theirs.norm()) + 1e-5


@pytest.mark.parametrize(("tokens", "choices", "experts"), [(1, 1, 2), (50, 3, 8), (9, 2, 2)])
def test_visits_are_sorted_as_torch_does(tokens, choices, experts):
    chosen = torch.stack([torch.randperm(experts)[:choices] for _ in range(tokens)])
    place, token, ends = autograd.sort_visits(chosen, experts)
    assert ends.tolist() == torch.bincount(chosen.flatten(), minlength=experts).cumsum(0).tolist()
    order = chosen.flatten().argsort(stable=True)
    assert token.tolist() == (order // choices).tolist()
    assert place.flatten()[order].tolist() == list(range(tokens * choices))


@pytest.mark.parametrize("wrong", [-1, 5])
def test_a_target_that_is_no_token_is_an_error(wrong):
    with pytest.raises(IndexError, match=r"1 targets are not tokens.*0 to 4"):
        ops.token_losses(random(3, 5), torch.tensor([0, wrong, -100]), -100)


def test_zero_has_no_direction():
    assert not ops.newton_schulz(torch.zeros(2, 3, 5), 5, QUINTIC).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("function", [
    lambda x: ops.rms_norm(x, torch.ones(40), 1e-6),
    ops.swiglu,
    lambda x: ops.linear(x, random(7, 40)),
    lambda x: ops.token_losses(x, TARGETS, -100),
], ids=["rms_norm", "swiglu", "linear", "token_losses"])  # fmt: skip
def test_what_is_not_a_number_stays_so(bad, function):
    """The trainer refuses a step whose gradient is not finite: nothing may hide it."""
    x = random(3, 40)
    x[1, 17] = bad
    x.requires_grad_()
    out = function(x)
    out.sum().backward()
    assert not out[1].isfinite().all() or not x.grad[1].isfinite().all()


def test_results_repeat_bit_for_bit():
    def once():
        x, w = random(500, 96).requires_grad_(), random(70, 96, seed=1).requires_grad_()
        ops.rms_norm(ops.linear(x, w), torch.ones(70, requires_grad=True), 1e-6).square().sum().backward()
        return torch.cat([x.grad.flatten(), w.grad.flatten()])

    assert torch.equal(once(), once())


def attend(q, kv, shared, cos, segments=None, key_segments=None):
    reach = ops.Reach([(0, 3)], segments, key_segments, lambda part: part)
    return ops.latent_attention(q, kv, shared, (cos, cos), reach, 1.0)


@pytest.mark.parametrize("wrong", [
    lambda: ops.linear(random(4, 5), random(2, 3)),
    lambda: ops.grouped_linear(random(4, 3), random(2, 6, 3), torch.tensor([1, 5], dtype=torch.int32)),
    lambda: ops.rms_norm(random(4, 5), random(3), 1e-6),
    lambda: ops.token_losses(random(4, 5), torch.tensor([1, 2]), -100),
    lambda: ops.token_losses(random(2, 5), torch.tensor([1, 2], dtype=torch.int32), -100),
    lambda: ops.routed_experts(random(2, 4), torch.tensor([[0], [2]]), random(2, 1), random(2, 2, 3, 4),
                               random(2, 4, 3)),
    lambda: ops.sample(random(2, 5), 1.0, torch.ones(1)),
    lambda: attend(random(1, 3, 2, 6), random(1, 4, 2, 8), random(1, 3, 2), random(1, 3, 1)),
    lambda: attend(random(1, 3, 2, 6), random(1, 3, 2, 8), random(1, 3, 2), random(1, 2, 1)),
    lambda: attend(random(2, 3, 2, 6), random(2, 3, 2, 8), random(2, 3, 2), random(1, 3, 1),
                   torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long)),
])  # fmt: skip
def test_what_does_not_fit_is_an_error_and_is_not_read(wrong):
    with pytest.raises((ValueError, IndexError), match=r"do not fit|not one of the 2"):
        wrong()


def test_a_model_that_has_diverged_is_not_sampled_from():
    with pytest.raises(FloatingPointError, match="diverged"):
        ops.sample(torch.full((2, 5), math.nan), 1.0, torch.ones(2))


def test_a_forked_process_does_not_wait_for_the_threads_of_its_parent():
    x = random(1000, 64)
    expected = ops.swiglu(x)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(ops.swiglu(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
