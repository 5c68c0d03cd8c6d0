"""The squared objective against what the papers say about it, by autograd on a categorical policy."""

import pytest
import torch

from k2core.inference.trajectory import Rollout
from k2core.rl.objective import advantages, clipped_loss, length_rewards, sequence_log_probs, squared_loss, standardised

TAU = 0.3


def policy(seed: int, actions: int = 5) -> torch.Tensor:
    return torch.randn(actions, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(function, theta: torch.Tensor) -> torch.Tensor:
    theta = theta.clone().requires_grad_()
    function(theta.log_softmax(0)).backward()
    return theta.grad


CHOICES = torch.tensor([0, 3, 1, 3])
REWARDS = [1.0, 0.0, 0.25, 0.0]


def loss(rewards, old):
    advantage = torch.tensor(advantages(rewards, "mean", TAU), dtype=torch.float64)
    return lambda log_probs: squared_loss(log_probs[CHOICES], old[CHOICES], advantage, TAU)


def test_on_policy_gradient_is_reinforce_with_a_mean_baseline():
    theta = policy(0)
    old = theta.log_softmax(0)
    advantage = torch.tensor(REWARDS, dtype=torch.float64) - sum(REWARDS) / len(REWARDS)
    reinforce = gradient(lambda log_probs: -(advantage * log_probs[CHOICES]).mean(), theta)
    torch.testing.assert_close(gradient(loss(REWARDS, old), theta) / (2 * TAU), reinforce)
    assert reinforce.abs().max() > 0.01


def test_gradient_is_minus_two_tau_times_equation_three_off_policy():
    theta, old = policy(0), policy(1).log_softmax(0)
    advantage = torch.tensor(REWARDS, dtype=torch.float64) - sum(REWARDS) / len(REWARDS)

    def equation_three(log_probs):
        chosen = log_probs[CHOICES]
        return (advantage * chosen - TAU / 2 * (chosen - old[CHOICES]).square()).mean()

    torch.testing.assert_close(gradient(loss(REWARDS, old), theta), -2 * TAU * gradient(equation_three, theta))


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, -0.5])
def test_equal_rewards_give_no_gradient_on_policy_but_one_off_policy(reward):
    theta = policy(0)
    on = gradient(loss([reward] * 4, theta.log_softmax(0)), theta)
    off = gradient(loss([reward] * 4, policy(1).log_softmax(0)), theta)
    assert torch.equal(on, torch.zeros_like(on))
    assert off.abs().max() > 0.01


@pytest.mark.parametrize(("baseline", "tau"), [("mean", 20.0), ("log_mean_exp", 0.5)])
def test_the_minimum_is_the_tilted_policy(baseline, tau):
    """With all responses enumerated under π_old uniform, the optimum is π_old exp(r/τ)/Z; with the mean for large τ."""
    rewards = [1.0, 0.0, 0.5]
    old = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    advantage = torch.tensor(advantages(rewards, baseline, tau), dtype=torch.float64)
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        value = squared_loss(theta.log_softmax(0), old, advantage, tau)
        value.backward()
        return value

    optimizer.step(closure)
    tilted = (old + torch.tensor(rewards, dtype=torch.float64) / tau).log_softmax(0)
    torch.testing.assert_close(theta.log_softmax(0), tilted, atol=1e-3, rtol=0)


@pytest.mark.parametrize("step", [1e-3, 1e-4])
def test_the_gradient_is_the_slope_of_the_loss_off_policy(step):
    theta, function = policy(0), loss(REWARDS, policy(1).log_softmax(0))
    slope = torch.stack([
        (function((theta + step * at).log_softmax(0)) - function((theta - step * at).log_softmax(0))) / (2 * step)
        for at in torch.eye(len(theta), dtype=torch.float64)
    ])  # fmt: skip
    torch.testing.assert_close(gradient(function, theta), slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("baseline", ["mean", "log_mean_exp"])
def test_advantages_of_equal_rewards_are_exactly_zero(baseline):
    assert advantages([0.1] * 3, baseline, TAU) == [0.0, 0.0, 0.0]  # 0.1 + 0.1 + 0.1 is not 0.3 in floating point


def test_the_baselines_are_as_worked_out_by_hand_and_meet_for_large_tau():
    assert advantages([1.0, 0.0], "mean", TAU) == [0.5, -0.5]
    # 0.5 log((e^2 + 1) / 2) = 0.7168904
    assert advantages([1.0, 0.0], "log_mean_exp", 0.5) == pytest.approx([0.2831096, -0.7168904], abs=1e-7)
    assert advantages([1.0, 0.0], "log_mean_exp", 1e4) == pytest.approx([0.5, -0.5], abs=1e-4)
    assert advantages([1.0, -0.1], "log_mean_exp", 1e-4) == pytest.approx([0.0, -1.1], abs=1e-3), "exp(1/τ) overflows"


def test_sequence_log_probs_sum_by_response():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert sequence_log_probs(values, torch.tensor([2, 0, 2, 0]), 3).tolist() == [10.0, 0.0, 5.0]


def response(length: int, passed: bool) -> Rollout:
    return Rollout([5] * length + [6], [0.0] * (length + 1), "", float(passed), passed, False, [1] * length + [0])


def test_length_rewards_are_k15s():
    """K1.5 §2.3.3 by hand: λ = 0.5 - (length - least) / (most - least), at most 0 for what is wrong."""
    group = [response(2, True), response(4, True), response(6, True), response(3, False), response(6, False)]
    assert length_rewards(group) == [0.5, 0.0, -0.5, 0.0, -0.5]
    assert length_rewards([response(4, True), response(4, False)]) == [0.0, 0.0]


def test_grpos_loss_is_the_papers():
    """DeepSeekMath, equation 3 without its KL term, written out response by response and token by token."""
    random = torch.Generator().manual_seed(0)
    lengths, rewards = [3, 1, 4, 2], [1.0, 0.0, 0.25, 0.0]
    new = [torch.randn(length, generator=random, dtype=torch.float64).requires_grad_() for length in lengths]
    old = [log_probs.detach() + torch.tensor(0.5) * (-1) ** i for i, log_probs in enumerate(new)]
    gains = (torch.tensor(rewards) - torch.tensor(rewards).mean()) / (torch.tensor(rewards).std() + 1e-4)
    wanted = 0.0
    for gain, now, before in zip(gains, new, old, strict=True):
        of_response = 0.0
        for ratio in (now - before).exp():
            clipped = min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2))
            of_response += min(ratio * gain, clipped * gain)
        wanted -= of_response / len(now) / len(new)
    wanted_gradient = torch.autograd.grad(wanted, new, allow_unused=True)

    sequence = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    shuffled = torch.randperm(len(sequence), generator=random)
    found = clipped_loss(
        torch.cat(new)[shuffled], torch.cat(old)[shuffled], sequence[shuffled],
        torch.tensor(standardised(rewards), dtype=torch.float64),
    )  # fmt: skip
    torch.testing.assert_close(found, wanted, check_dtype=False, atol=1e-6, rtol=1e-6)
    for got, gradient in zip(torch.autograd.grad(found, new), wanted_gradient, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if gradient is None else gradient, atol=1e-6, rtol=1e-6)
    assert sum(bool(gradient is None or not gradient.any()) for gradient in wanted_gradient) in (1, 2, 3), "some clip"


def test_grpo_gives_equal_rewards_no_advantage():
    assert standardised([0.1] * 3) == [0.0, 0.0, 0.0]
    assert standardised([1.0, 0.0]) == pytest.approx([0.5 / (0.5**0.5 + 1e-4), -0.5 / (0.5**0.5 + 1e-4)])
