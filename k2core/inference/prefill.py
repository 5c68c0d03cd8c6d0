"""Reading prompts into a cache: what several begin with is computed once.

Dialogues under way, and samples of one prompt, share long beginnings: they become branches of one trunk
(`k2core.data.rows.trees`).

Shapes: B prompts, R rows, T positions, S slots, N tokens read, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from k2core.data.rows.packing import pack_rows
from k2core.data.rows.trees import Tree, tree_rows
from k2core.model.cache import KeyValueCache
from k2core.model.router import Router
from k2core.model.transformer import Transformer

ROW = 1024
"""Most positions of a tree of several prompts: each looks past what its siblings have in the row."""


def grow(prompts: Sequence[tuple[int, ...]]) -> list[Tree]:
    """Trees that together hold each of the prompts, which are different ones, once, by their indices."""
    grown: list[tuple[int, list[int], int]] = []  # tokens of the trunk, prompts, positions of all
    for number in sorted(range(len(prompts)), key=prompts.__getitem__):
        prompt = prompts[number]
        if grown:
            trunk, numbers, length = grown[-1]
            alike = zip(prompts[numbers[0]][:trunk], prompt, strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], alike))
            joined = length + (trunk - shared) * (len(numbers) - 1) + len(prompt) - shared
            if 2 * shared >= len(prompt) and joined <= min(ROW, length + len(prompt)):
                grown[-1] = shared, [*numbers, number], joined
                continue
        grown.append((len(prompt), [number], len(prompt)))
    return [
        Tree(prompts[numbers[0]][:shared], {number: prompts[number][shared:] for number in numbers})
        for shared, numbers, _ in grown
    ]


def prefill(
    model: Transformer, prompts: list[tuple[int, ...]], room: int, routes: list[Tensor] | None = None
) -> tuple[Tensor, KeyValueCache]:
    """Each prompt's last token, [B], and the cache of all before it, with `room` for as many tokens more.

    Args:
        routes: gets what the routers chose for the tokens in each prompt's slots, [S, layers, K], if they record it.
    """
    device, dtype = model.device, model.dtype
    different = list(dict.fromkeys(prompt[:-1] for prompt in prompts))
    slots = max(map(len, different))
    cache = KeyValueCache(model.config, len(prompts), slots + room, like=torch.empty(0, dtype=dtype, device=device))
    cache.lengths_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    if slots:
        trees = grow(different)
        lengths = [len(tree) for tree in trees]
        rows = tree_rows(trees, pack_rows(lengths, max(lengths)))
        R, T = rows.tokens_RT.shape
        read = KeyValueCache(model.config, R, T, like=cache.layers[0])
        model.prefill(rows.tokens_RT.to(device), read, rows.positions_RT.to(device), rows.segments_RT.to(device))
        places = [rows.places[number] for number in range(len(different))]
        sources = {  # slots after a prompt's end are overwritten, or never read
            prompt: [
                *(place.row * T + column for column in (*place.trunk, *place.branch)),
                *[0] * (slots - len(prompt)),
            ]
            for prompt, place in zip(different, places, strict=True)
        }
        sources_BS = torch.tensor([sources[prompt[:-1]] for prompt in prompts], device=device)
        for into, made in zip(cache.layers, read.layers, strict=True):
            into[:, :slots] = made.flatten(0, 1)[sources_BS]
        if routes is not None:
            routes += recorded(model.routers(), R * T)[sources_BS]
    return torch.tensor([prompt[-1] for prompt in prompts], device=device), cache


def recorded(routers: Sequence[Router], count: int) -> Tensor:
    """What the routers chose last for `count` tokens, [N, L, K]; -1 in layers whose router was not asked."""
    none = torch.full((count, routers[0].top_k), -1, device=routers[0].weight.device)
    return torch.stack([none if each.recorded_NK is None else each.recorded_NK for each in routers], dim=1)
