"""The policy objective of Kimi K1.5 and K2.

For a prompt x, K responses y_1..y_K are sampled from the policy π_old at the start of the iteration. Then, with
whole-sequence log-probabilities and no value network (K2 §3.2.3; K1.5 §2.3.2, surrogate of equation 2):

    L(θ) = E_x[ 1/K Σ_i ( r(x, y_i) - r̄(x) - τ log( π_θ(y_i|x) / π_old(y_i|x) ) )² ],   r̄(x) = 1/K Σ_i r(x, y_i)

K1.5 derives it with τ log Z(x) in place of r̄(x), estimated as τ log( 1/K Σ_i exp(r(x, y_i)/τ) ), and uses the mean in
practice; the two meet as τ grows. Both baselines are here. The gradient is -2τ times the ascent direction of K1.5's
equation 3,

    1/K Σ_i [ (r_i - r̄) ∇log π_θ(y_i|x) - τ/2 ∇( log π_θ(y_i|x)/π_old(y_i|x) )² ],

hence equal to REINFORCE with a mean baseline as long as π_θ = π_old, and drawn back to π_old afterwards, for prompts
with equal rewards too.

GRPO (DeepSeekMath, arXiv 2402.03300, §4.1) is here to be compared with. It divides r - r̄ by the group's deviation, and
maximises, token by token, min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π_θ/π_old, meant over the tokens of a response
and then over responses. Its KL term to a third model, which TRL and verl leave out unless asked, is left out.

Shapes: N responses, M their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import fmean, stdev

import torch
from torch import Tensor

from k2core.inference.trajectory import Rollout
from k2core.rl.config import Baseline

CLIP = 0.2
"""ε of GRPO, as in PPO, TRL and verl."""
LEAST_DEVIATION = 1e-4
"""Added to the deviation, as in TRL."""


def advantages(rewards: Sequence[float], baseline: Baseline, tau: float) -> list[float]:
    """r - r̄ for the responses to one prompt, exactly 0 where all are equal; no division by the deviation.

    Args:
        baseline: what r̄ is: the mean, or τ log of the mean of exp(r/τ).
        tau: as in `squared_loss`.
    """
    best = max(rewards)
    if best == min(rewards):
        middle = best
    elif baseline == "mean":
        middle = fmean(rewards)
    else:  # less the best, so that exp does not overflow
        middle = best + tau * log(fmean(exp((reward - best) / tau) for reward in rewards))
    return [reward - middle for reward in rewards]


def standardised(rewards: Sequence[float]) -> list[float]:
    """GRPO's advantages: r - r̄ divided by the deviation of the group; exactly 0 where all are equal."""
    scale = stdev(rewards) + LEAST_DEVIATION
    return [gain / scale for gain in advantages(rewards, "mean", 1.0)]


def length_rewards(group: Sequence[Rollout]) -> list[float]:
    """What the lengths of the responses to one prompt are worth, in [-0.5, 0.5] (K1.5 §2.3.3).

    The shortest gets 0.5, the longest -0.5; a response that did not pass gets no more than 0. All get 0 where all are
    equally long. Lengths are sampled tokens.
    """
    lengths = [sum(rollout.mask) for rollout in group]
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(group)
    values = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
    return [value if rollout.passed else min(0.0, value) for value, rollout in zip(values, group, strict=True)]


def squared_loss(log_probs_N: Tensor, old_log_probs_N: Tensor, advantages_N: Tensor, tau: float) -> Tensor:
    """L(θ) over N = P·K responses (in any order: every prompt has K, so the mean of means is the mean).

    Args:
        log_probs_N: log π_θ(y|x), summed over the response's tokens, with gradient.
        old_log_probs_N: log π_old(y|x), a constant.
        advantages_N: r - r̄ of the response.
        tau: strength of the pull to π_old, > 0.
    """
    return (advantages_N - tau * (log_probs_N - old_log_probs_N.detach())).square().mean()


def sequence_log_probs(token_log_probs_M: Tensor, sequence_M: Tensor, count: int) -> Tensor:
    """Sum of token log-probabilities per sequence.

    Args:
        token_log_probs_M: log-probability of each of M sampled tokens.
        sequence_M: number of the response that the token belongs to.
        count: number of responses N; the result has shape (N,).
    """
    return token_log_probs_M.new_zeros(count).index_add(0, sequence_M, token_log_probs_M)


def clipped_loss(log_probs_M: Tensor, old_log_probs_M: Tensor, sequence_M: Tensor, advantages_N: Tensor) -> Tensor:
    """What GRPO minimises, over the responses that have tokens here.

    Args:
        log_probs_M: log π_θ of each sampled token, with gradient.
        old_log_probs_M: log π_old of it, a constant.
        sequence_M: number of the response that the token belongs to.
        advantages_N: advantage of each response, here or elsewhere.
    """
    ratio_M, gain_M = (log_probs_M - old_log_probs_M).exp(), advantages_N[sequence_M]
    terms_M = torch.minimum(ratio_M * gain_M, ratio_M.clamp(1 - CLIP, 1 + CLIP) * gain_M)
    tokens_N = sequence_M.bincount(minlength=len(advantages_N))
    means_N = sequence_log_probs(terms_M, sequence_M, len(advantages_N)) / tokens_N.clamp(min=1)
    return -means_N.sum() / (tokens_N > 0).sum()
