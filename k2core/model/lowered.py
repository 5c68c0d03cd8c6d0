"""A model whose matrices are stored in the type that it computes in."""

from __future__ import annotations

import copy

from torch import nn

from k2core.model.transformer import Transformer


def lowered(model: Transformer) -> Transformer:
    """`model` for inference, its matrices stored in its `dtype`: a copy, or `model` itself where they are.

    `Transformer` converts fp32 weights at each use, which takes longer than a step of decoding. Router and norms stay
    fp32. The copy does not follow later changes of the weights.
    """
    if model.lm_head.weight.dtype == model.dtype:
        return model
    kept = {id(router.weight) for router in model.routers()}
    stored = {
        id(weight): nn.Parameter(weight.detach().to(model.dtype), requires_grad=False)
        for weight in model.parameters()
        if weight.ndim > 1 and id(weight) not in kept
    }
    twin = copy.deepcopy(model, stored)
    for layer in twin.layers:
        layer.__dict__.pop("forward", None)  # compiled, or recomputing: of the layer that it was copied from
    return twin
