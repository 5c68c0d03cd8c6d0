"""What an iteration of RL logs.

Logged: `reward/mean` and `passed` (prompts as drawn: the hardest come most often, so both may fall while the policy
improves), `curriculum/success` (running success rate, mean over the whole pool), `reward/zero_std` (share of groups
without signal), `reward/failed` (once there is one: share of rollouts whose environment failed), `truncated` (share
over budget), `length` (sampled tokens per rollout), `turns` (responses per rollout), `entropy` (nats per token: mean
-log π of the sampled tokens), `critique/loss` (of the critic on verified pairs), `critique/agreement` (of the critic
with the verifiers, on held-out pairs), `critique/on` (whether its reward counts), `critique/spread` (win rates'
standard deviation), `temperature`, `grad_norm` (before clipping), `lr/muon` (the matrices' learning rate), what the
optimiser reports, and, once there are any, `spike/skipped` (updates left out). With `token_budget` also
`partial/resumed`, `partial/paused` (trajectories that went on, and that wait at the end) and `partial/stale` (share of
the sampled tokens learnt from that earlier policies sampled); with a server `rollouts/disagreement` (mean difference
between its log-probabilities and the trainer's, in nats per token); with `replay_routes`, in the first step,
`routes/disagreement` (share of tokens and layers for which the trainer would have chosen other experts than the
sampler). In MLflow alone: `time/rollout`, `time/reward`, `time/training`, `time/other` (seconds since the last row),
and of `time/rollout` what a server took for `time/sync` (writing, loading and checking weights) and `time/wait` (for
the last responses, from when half of them were there).

Before the iteration's first step `log_ratio/first_max` (largest |log π_θ/π_old| of a response of this policy alone:
sampler and trainer agree if it is about 0); before its last step `loss/policy`, `loss/ptx`, `log_ratio/mean`,
`log_ratio/abs` (of log π_θ/π_old, and of its magnitude), `loss/pull` (the mean of (τ log π_θ/π_old)², part of
`loss/policy`) and `pull/share` (a response's gradient weighs r - r̄ - τ log π_θ/π_old; the last term's share of it, by
magnitude: 0 on-policy, 1 where the pull is all).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from k2core.inference.rollouts import Rollout
from k2core.training.history import Metrics


def pull(ratios: Sequence[float], gains: Sequence[float], tau: float, count: int) -> Metrics:
    """How far the policy is from π_old, and what τ makes of it.

    Args:
        ratios: log π_θ/π_old of each response that has a gradient.
        gains: their r - r̄.
        count: all responses that the loss is a mean over.
    """
    pulls, drives = sum(tau * abs(ratio) for ratio in ratios), sum(map(abs, gains))
    return {
        "log_ratio/mean": fmean(ratios),
        "log_ratio/abs": fmean(map(abs, ratios)),
        "loss/pull": tau**2 * sum(ratio**2 for ratio in ratios) / count,
        "pull/share": pulls / (pulls + drives) if pulls else 0.0,
    }


def turns(mask: Sequence[int]) -> int:
    """How many runs of ones a mask has."""
    return sum(now > before for before, now in zip([0, *mask], mask, strict=False))


def describe(groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[float]]) -> Metrics:
    """Of an iteration's groups; nothing if there is none."""
    rollouts = [rollout for group in groups for rollout in group]
    if not rollouts:
        return {}
    failed = fmean(bool(rollout.fault) for rollout in rollouts)
    return ({"reward/failed": failed} if failed else {}) | {
        "reward/mean": fmean(reward for group in rewards for reward in group),
        "reward/zero_std": fmean(len(set(group)) == 1 for group in rewards),
        "passed": fmean(rollout.passed for rollout in rollouts),
        "truncated": fmean(rollout.truncated for rollout in rollouts),
        "length": fmean(sum(rollout.mask) for rollout in rollouts),
        "turns": fmean(turns(rollout.mask) for rollout in rollouts),
        "entropy": -sum(sum(rollout.log_probs) for rollout in rollouts)
        / sum(sum(rollout.mask) for rollout in rollouts),
    }
