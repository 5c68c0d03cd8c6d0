"""The squared objective against what the papers say about it, by autograd on a categorical policy."""

import pytest
import torch

from k2core.rl.objective import advantages, sequence_log_probs, squared_loss

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
    advantage = torch.tensor(advantages(rewards), dtype=torch.float64)
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


def test_the_minimum_is_the_tilted_policy():
    """With all responses enumerated under π_old uniform, the optimum approaches π_old exp(r/τ)/Z for large τ."""
    rewards, tau = [1.0, 0.0, 0.5], 20.0
    old = torch.full((3,), 1 / 3, dtype=torch.float64).log()
    advantage = torch.tensor(advantages(rewards), dtype=torch.float64)
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


def test_advantages_of_equal_rewards_are_exactly_zero():
    assert advantages([0.1] * 3) == [0.0, 0.0, 0.0]  # 0.1 + 0.1 + 0.1 is not 0.3 in floating point
    assert advantages([1.0, 0.0]) == [0.5, -0.5]


def test_sequence_log_probs_sum_by_response():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert sequence_log_probs(values, torch.tensor([2, 0, 2, 0]), 3).tolist() == [10.0, 0.0, 5.0]
