"""Routing replay: the trainer uses the experts that the sampler used (R3, arXiv 2510.11370).

Sampler and trainer compute the same in other shapes, other orders and, elsewhere, other engines. Where two experts are
almost equally good they may choose differently, and then log-probabilities differ by more than rounding. With replay
the choice is the sampler's, and the experts' weights, through which the router learns, are the trainer's own.

Shapes: R rows, T positions, L layers with experts, K experts per token, N tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from k2core.data.rows.trees import Tree, tree_rows
from k2core.model.transformer import Transformer


@contextmanager
def replaying(
    model: Transformer, trees: Sequence[Tree], rows: Sequence[Sequence[int]], routes: Mapping[int, np.ndarray]
) -> Iterator[None]:
    """Within the block the model's routers choose for `rows` of `trees` what `routes` has, by the responses' numbers.

    A prompt that several responses share is read as the first of them read it. The block must hold the backward pass
    too, which may compute activations again.
    """
    made = tree_rows(trees, rows)
    first = next(iter(routes.values()))
    routes_RTLK = torch.full((*made.tokens_RT.shape, *first.shape[1:]), -1)
    for number, place in reversed(list(made.places.items())):
        own, shared = torch.from_numpy(routes[number].astype(np.int64)), len(place.trunk)
        routes_RTLK[place.row, place.trunk.start : place.trunk.stop] = own[:shared]
        routes_RTLK[place.row, place.branch.start : place.branch.stop] = own[shared : shared + len(place.branch)]
    routers = model.routers()
    for layer, router in enumerate(routers):
        router.replayed_NK = routes_RTLK[:, :, layer].flatten(0, 1).to(model.device)
    try:
        yield
    finally:
        for router in routers:
            router.replayed_NK = None


def disagreement(model: Transformer, summed: Callable[..., list[float]]) -> float | None:
    """Share of tokens and layers since the last call in which the routers would have chosen other experts.

    None: nothing was replayed.

    Args:
        summed: of the processes (`Ranks.sum`).
    """
    routers = model.routers()
    compared, differing = (sum(getattr(router, name) for router in routers) for name in ("compared", "differing"))
    for router in routers:
        router.compared = router.differing = 0
    compared, differing = summed(compared, differing)
    return differing / compared if compared else None
