"""What slime is told to load: K2's objective as custom loss, and rewards by our verifiers.

Read in slime of August 2026 (`slime/backends/megatron_utils/loss.py`, `slime/rollout/rm_hub`). slime's GRPO advantages
without normalisation by the deviation are r - r̄, on each token of a response. The objective's τ is slime's
`--kl-loss-coef`. A loss function of slime's returns the sum over responses; slime divides by their number.

Shapes: N responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k2core.rl.handover.objective import per_response
from k2core.rl.handover.rewards import rewards_of


def loss(
    args: Any, batch: dict[str, Any], logits: Tensor, sum_of_sample_mean: Callable[[Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum over responses of (r - r̄ - τ log π/π_old)² / 2τ, for `--custom-loss-function-path`.

    Raises:
        ValueError: responses are divided over context-parallel ranks.
    """
    from slime.backends.megatron_utils.loss import get_log_probs_and_entropy

    if getattr(args, "context_parallel_size", 1) != 1:
        raise ValueError("K2's objective is of whole responses; set --context-parallel-size to 1")
    _, found = get_log_probs_and_entropy(
        logits, args=args, unconcat_tokens=batch["unconcat_tokens"], total_lengths=batch["total_lengths"],
        response_lengths=batch["response_lengths"], with_entropy=False,
    )  # fmt: skip
    old = batch["rollout_log_probs"] if args.use_rollout_logprobs else batch.get("log_probs")
    old = old or [new.detach() for new in found["log_probs"]]  # as slime's own: where it leaves them out, π is π_old
    pairs = list(zip(found["log_probs"], old, batch["advantages"], batch["loss_masks"], strict=True))
    ratios_N = torch.stack([((new - before) * mask).sum() for new, before, _, mask in pairs])
    gains_N = torch.stack([(gain * mask).sum() / mask.sum().clamp(min=1) for _, _, gain, mask in pairs])
    total = per_response(ratios_N, gains_N, float(args.kl_loss_coef)).sum()
    return total, {"loss": total.detach().clone(), "log_ratio_abs": ratios_N.detach().abs().sum()}


async def reward(args: Any, sample: Any, **more: Any) -> float:
    """The reward of one sample, for `--custom-rm-path`."""
    folder = Path(args.prompt_data).resolve().parent
    tokens = list(sample.tokens[len(sample.tokens) - sample.response_length :])
    return await asyncio.to_thread(lambda: rewards_of(folder).score(sample.metadata, tokens))
