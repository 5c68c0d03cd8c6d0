"""Reading prompts into a cache.

Shapes: B sequences, T positions, U different prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from k2core.model.cache import KeyValueCache
from k2core.model.transformer import Transformer


def prefill(model: Transformer, prompts: list[tuple[int, ...]], room: int) -> tuple[Tensor, KeyValueCache]:
    """Each prompt's last token, [B], and the cache of all before it; equal ones are computed once."""
    unique = list(dict.fromkeys(prompt[:-1] for prompt in prompts))
    device = model.device
    width = max(map(len, unique))
    tokens_UT = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in unique], device=device)
    cache = KeyValueCache(
        model.config, len(unique), width + room, like=torch.empty(0, dtype=model.dtype, device=device)
    )
    if width:
        model.prefill(tokens_UT, cache)  # causal: the padding on the right is never seen
    cache.lengths_B = torch.tensor([len(prompt) for prompt in unique], device=device)
    place = {prompt: number for number, prompt in enumerate(unique)}
    cache.select(torch.tensor([place[prompt[:-1]] for prompt in prompts], device=device))
    return torch.tensor([prompt[-1] for prompt in prompts], device=device), cache
