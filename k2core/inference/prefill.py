"""Reading prompts into a cache: what several begin with is computed once.

Dialogues under way, and samples of one prompt, share long beginnings. Prompts with a common beginning become a tree in
a row, its trunk the beginning (`k2core.ops.BRANCH`); several trees fill a row.

Shapes: B prompts, R rows, T positions, S slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from k2core.data.rows.packing import pack_rows
from k2core.model.cache import KeyValueCache
from k2core.model.transformer import Transformer
from k2core.ops import BRANCH

ROW = 1024
"""Most positions of a tree of several prompts: each looks past what its siblings have in the row."""


@dataclass
class Tree:
    """Prompts, by number, that begin with the same `shared` tokens; `length` is all of their positions in a row."""

    shared: int
    numbers: list[int]
    length: int


def grow(prompts: Sequence[tuple[int, ...]]) -> list[Tree]:
    """Trees that together hold each of the different prompts once."""
    trees: list[Tree] = []
    for number in sorted(range(len(prompts)), key=prompts.__getitem__):
        prompt = prompts[number]
        if trees:
            last = trees[-1]
            alike = zip(prompts[last.numbers[0]][: last.shared], prompt, strict=False)
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], alike))
            joined = last.length + (last.shared - shared) * (len(last.numbers) - 1) + len(prompt) - shared
            if 2 * shared >= len(prompt) and joined <= min(ROW, last.length + len(prompt)):
                trees[-1] = Tree(shared, [*last.numbers, number], joined)
                continue
        trees.append(Tree(len(prompt), [number], len(prompt)))
    return trees


def prefill(model: Transformer, prompts: list[tuple[int, ...]], room: int) -> tuple[Tensor, KeyValueCache]:
    """Each prompt's last token, [B], and the cache of all before it, with `room` for as many tokens more."""
    device, dtype = model.device, model.dtype
    different = list(dict.fromkeys(prompt[:-1] for prompt in prompts))
    slots = max(map(len, different))
    cache = KeyValueCache(model.config, len(prompts), slots + room, like=torch.empty(0, dtype=dtype, device=device))
    cache.lengths_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    if slots:
        tokens_RT, positions_RT, segments_RT, places = _rows(different)
        read = KeyValueCache(model.config, len(tokens_RT), tokens_RT.shape[1], like=cache.layers[0])
        model.prefill(tokens_RT.to(device), read, positions_RT.to(device), segments_RT.to(device))
        numbers = {prompt: number for number, prompt in enumerate(different)}
        places_BS = torch.tensor([
            [*places[numbers[prompt[:-1]]], *[0] * (slots - len(prompt) + 1)] for prompt in prompts
        ], device=device)  # fmt: skip
        for into, made in zip(cache.layers, read.layers, strict=True):
            into[:, :slots] = made.flatten(0, 1)[places_BS]  # slots after a prompt's end are overwritten, or never read
    return torch.tensor([prompt[-1] for prompt in prompts], device=device), cache


def _rows(prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor, list[list[int]]]:
    """Tokens, positions and segments of rows that hold all trees, and each prompt's positions in all rows, in order."""
    trees = grow(prompts)
    widest = max(tree.length for tree in trees)
    rows = pack_rows([tree.length for tree in trees], widest)
    tokens, positions = (torch.zeros(len(rows), widest, dtype=torch.long) for _ in range(2))
    segments = torch.tensor([[len(row)] for row in rows]).repeat(1, widest)  # padding: a segment of its own
    places: list[list[int]] = [[] for _ in prompts]
    for r, row in enumerate(rows):
        at = 0
        for segment, tree in enumerate(trees[index] for index in row):
            parts = [(prompts[tree.numbers[0]][: tree.shared], 0, tree.numbers, segment)]
            parts += [
                (prompts[number][tree.shared :], tree.shared, [number], branch * BRANCH + segment)
                for branch, number in enumerate(tree.numbers, 1)
            ]
            for part, begins, numbers, own in parts:
                end = at + len(part)
                tokens[r, at:end] = torch.tensor(part, dtype=torch.long)
                positions[r, at:end], segments[r, at:end] = torch.arange(begins, begins + len(part)), own
                for number in numbers:
                    places[number] += range(r * widest + at, r * widest + end)
                at = end
    return tokens, positions, segments, places
