"""The router: sigmoid scores, experts balanced by a bias instead of an auxiliary loss (DeepSeek-V3 §2.1.2; K2 §2.3).

Shapes: N tokens, D hidden width, E experts, K experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from k2core import ops
from k2core.model.config import ModelConfig


class Router(nn.Module):
    """Chooses `num_experts_per_tok` experts for each token.

    `e_score_correction_bias` affects only the choice, never the weights, and has no gradient: the
    optimiser moves it after each step. `tokens_per_expert_E` counts choices since its last reset, while `observing`,
    which the model switches on for forward passes with gradient: recomputed ones do not count twice.

    While `recording`, the last choice is in `recorded_NK`. Where `replayed_NK` is not -1 its experts are used instead
    of the router's own, with the weights that the router gives them (routing replay, arXiv 2510.11370); `compared`
    counts such tokens while observing, and `differing` those for which the router would have chosen others.
    """

    e_score_correction_bias: Tensor
    tokens_per_expert_E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        E = config.n_routed_experts
        self.top_k, self.scaling = config.num_experts_per_tok, config.routed_scaling_factor
        self.observing = self.recording = False
        self.recorded_NK: Tensor | None = None
        self.replayed_NK: Tensor | None = None
        self.differing, self.compared = 0, 0
        self.weight = nn.Parameter(torch.empty(E, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(E))
        self.register_buffer("tokens_per_expert_E", torch.zeros(E, dtype=torch.long), persistent=False)

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """`(experts_NK, weights_NK)`: chosen experts and their weights, which sum to the scaling factor."""
        scores_NE = self.scores(x_ND)
        experts_NK = (scores_NE.detach() + self.e_score_correction_bias).topk(self.top_k, dim=-1).indices
        if self.replayed_NK is not None:
            experts_NK = self._replayed(experts_NK, self.replayed_NK)
        if self.recording:
            self.recorded_NK = experts_NK
        chosen_NK = scores_NE.gather(1, experts_NK)
        weights_NK = chosen_NK / (chosen_NK.sum(dim=-1, keepdim=True) + 1e-20) * self.scaling
        if self.observing:
            chosen = experts_NK.flatten()  # `bincount` would wait for a GPU, to see how long its result is
            self.tokens_per_expert_E.scatter_add_(0, chosen, torch.ones_like(chosen))
        return experts_NK, weights_NK

    def _replayed(self, own_NK: Tensor, replayed_NK: Tensor) -> Tensor:
        given_N1 = replayed_NK[:, :1] >= 0
        if self.observing:
            differ_N = (own_NK.sort(dim=-1).values != replayed_NK.sort(dim=-1).values).any(dim=-1)
            self.differing += int((differ_N & given_N1[:, 0]).sum())
            self.compared += int(given_N1.sum())
        return torch.where(given_N1, replayed_NK, own_NK)

    def scores(self, x_ND: Tensor) -> Tensor:
        """What each expert is worth to each token, before the bias, [N, E] in [0, 1]."""
        return ops.linear(x_ND.float(), self.weight.float()).sigmoid()
