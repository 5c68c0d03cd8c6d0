"""What verl is told to load: K2's objective as policy loss `k2`, and a reward manager that asks our verifiers.

Read in and checked against verl 0.9.1 (`verl/trainer/ppo/core_algos.py`, `verl/workers/utils/losses.py`,
`verl/experimental/reward_loop`). verl's GRPO advantages without the division by the deviation are r - r̄, on each token
of a response. The objective's τ is verl's `policy_loss.ppo_kl_coef`.

Shapes: N responses, T their tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss

from k2core.rl.handover.objective import per_response
from k2core.rl.handover.rewards import rewards_of


@register_policy_loss("k2")
def k2_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-sum",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The mean over responses of (r - r̄ - τ log π/π_old)² / 2τ, as our loop minimises it.

    Args:
        old_log_prob, log_prob, advantages, response_mask: [N, T]; a response's advantage is the same on all its tokens.
        loss_agg_mode: no part in it; the objective is of whole responses.

    Raises:
        ValueError: importance weights are given, which the objective does not have.
    """
    if rollout_is_weights is not None:
        raise ValueError("K2's objective has no importance weights; switch verl's rollout correction off")
    mask_NT = response_mask.to(log_prob.dtype)
    length_N = mask_NT.sum(-1).clamp(min=1)
    ratio_N = ((log_prob - old_log_prob) * mask_NT).sum(-1)
    gain_N = (advantages * mask_NT).sum(-1) / length_N
    loss_N = per_response(ratio_N, gain_N, float(config.policy_loss.ppo_kl_coef))
    # verl takes means over the whole step's responses, wherever they are: of a matrix whose rows sum to the losses
    loss_NT = (loss_N / length_N)[:, None] * mask_NT
    loss = agg_loss(loss_mat=loss_NT, loss_mask=mask_NT, loss_agg_mode="seq-mean-token-sum", **config.global_batch_info)
    distance = ratio_N.detach().abs().mean()
    return loss, {"actor/log_ratio_abs": float(distance)}


class K2Rewards(RewardManagerBase):
    """Rewards by our verifiers, from the folder of the prompts. It reads token ids: verl's own managers drop the tokens
    of tool calls from the text."""

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of one response."""
        one = data[-1:][0]
        responses_T = one.batch["responses"]
        length = int(one.batch["attention_mask"][-responses_T.shape[-1] :].sum())
        files = self.config.data.train_files
        folder = Path(files if isinstance(files, str) else files[0]).resolve().parent
        about, tokens = one.non_tensor_batch["extra_info"], torch.as_tensor(responses_T[:length]).tolist()
        reward = await self.loop.run_in_executor(None, lambda: rewards_of(folder).score(about, tokens))
        return {"reward_score": reward, "reward_extra_info": {"acc": float(reward >= 1.0)}}
