"""How well two implementations of one model agree, where rounding does not decide for them.

A router chooses experts by their order, so where two lie closer together than rounding, implementations that differ in
nothing else choose differently, and the logits of that token and of those after it differ visibly. Such positions say
nothing about the weights.

Shapes: B sequences, T positions, V vocabulary, N tokens, D hidden width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from k2core.model.router import Router
from k2core.model.transformer import Transformer

TIE = 1e-5
"""Difference of two experts' scores (sigmoids, so at most 1) below which rounding may decide; float32 has 6e-8."""


@torch.no_grad()
def logit_difference(model: Transformer, other: Callable[[Tensor], Tensor], tokens_BT: Tensor) -> tuple[float, float]:
    """Largest difference of a logit, and the share of the positions that were compared.

    A row is compared up to the first token for which some router is undecided. With none to compare the difference is
    infinite.
    """
    margins: list[Tensor] = []

    def look(router: Router, given: tuple[Tensor, ...], chosen: object) -> None:
        margins.append(margin(router, given[0]))

    hooks = [router.register_forward_hook(look) for router in model.routers()]
    try:
        logits_BTV = model(tokens_BT)
    finally:
        for hook in hooks:
            hook.remove()
    least_BT = torch.full(tokens_BT.shape, torch.inf, device=tokens_BT.device)
    for margin_N in margins:
        least_BT = torch.minimum(least_BT, margin_N.view(tokens_BT.shape))
    decided_BT = (least_BT > TIE).cummin(dim=1).values
    if not decided_BT.any():
        return torch.inf, 0.0
    differences_BT = (logits_BTV - other(tokens_BT)).abs().amax(dim=-1)
    return float(differences_BT[decided_BT].max()), float(decided_BT.float().mean())


@torch.no_grad()
def margin(router: Router, x_ND: Tensor) -> Tensor:
    """How far the last expert that the router chooses lies above the first that it does not, [N]."""
    scores_NE = router.scores(x_ND) + router.e_score_correction_bias
    if router.top_k == scores_NE.shape[1]:
        return scores_NE.new_full(scores_NE.shape[:1], torch.inf)
    best = scores_NE.topk(router.top_k + 1, dim=-1).values
    return best[:, -2] - best[:, -1]
