"""Load balance without an auxiliary loss: expert biases move against the load (arXiv 2408.15664).

Shapes: E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core.model.router import Router


@torch.no_grad()
def update_router_bias(router: Router, rate: float) -> Tensor:
    """Raise the bias of experts with less than the mean load, lower the others'; returns the load and resets it.

    The biases' mean is kept at zero, which changes no choice and bounds them.
    """
    load_E = router.tokens_per_expert_E.float()
    bias_E = router.e_score_correction_bias
    bias_E.add_((load_E.mean() - load_E).sign(), alpha=rate)
    bias_E.sub_(bias_E.mean())
    router.tokens_per_expert_E.zero_()
    return load_E
