"""Responses to one prompt as branches of one trunk, so that a training step computes the prompt once for all of them.

Each response sees the prompt and itself, at the positions it would have alone, so logits and gradients are those of
prompt and response as one dialogue, up to rounding. The router's load counts the prompt's tokens once.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.ops import BRANCH
from k2core.training.dialogues import Dialogue

MOST = 2047
"""Branches of one trunk, at most (`BRANCH`)."""


@dataclass(frozen=True)
class Tree:
    """A prompt with responses to it.

    The prompt's last token begins each branch, for what follows it is each response's own.

    Attributes:
        prompt: token ids, at least one.
        responses: number of the response → its tokens, with 1 for each that is a target.
    """

    prompt: Sequence[int]
    responses: Mapping[int, Dialogue]

    def __len__(self) -> int:
        """Positions that it takes in a row."""
        return len(self.prompt) - 1 + sum(len(response.tokens) for response in self.responses.values())


def grow(prompt: Sequence[int], responses: Mapping[int, Dialogue], context: int) -> list[Tree]:
    """Trees of at most `context` positions that together hold all responses to a prompt, in order.

    Raises:
        ValueError: the prompt and one response are longer than `context`.
    """
    trees: list[dict[int, Dialogue]] = [{}]
    used = len(prompt) - 1
    for number, response in responses.items():
        if len(prompt) - 1 + len(response.tokens) > context:
            raise ValueError(
                f"a prompt and a response of {len(prompt)} + {len(response.tokens)} tokens exceed {context}"
            )
        if used + len(response.tokens) > context or len(trees[-1]) == MOST:
            trees.append({})
            used = len(prompt) - 1
        trees[-1][number] = response
        used += len(response.tokens)
    return [Tree(prompt, tree) for tree in trees if tree]


def trees_to_batch(trees: Sequence[Tree], rows: Sequence[Sequence[int]]) -> tuple[Batch, Tensor]:
    """Rows of trees as a batch as wide as the longest row.

    Returns:
        The batch, and `sequence_BT`: number of the response whose target token is the target there, else -1.
        Segments number the trees of a row from 0; padding is a segment of its own.
    """
    width = max(sum(len(trees[index]) for index in row) for row in rows)
    shape = (len(rows), width)
    tokens, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    targets, sequence = torch.full(shape, IGNORE), torch.full(shape, -1)
    segments = torch.tensor([[len(row)] for row in rows]).repeat(1, width)
    for b, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row):
            *trunk, last = trees[index].prompt
            end = start + len(trunk)
            tokens[b, start:end] = torch.tensor(trunk, dtype=torch.long)
            positions[b, start:end], segments[b, start:end] = torch.arange(len(trunk)), segment
            for branch, (number, response) in enumerate(trees[index].responses.items(), 1):
                start, end = end, end + len(response.tokens)
                ids, mask = torch.tensor(response.tokens), torch.tensor(response.mask, dtype=torch.bool)
                tokens[b, start:end] = torch.cat([torch.tensor([last]), ids[:-1]])
                positions[b, start:end] = torch.arange(len(trunk), len(trunk) + len(ids))
                segments[b, start:end] = branch * BRANCH + segment
                targets[b, start:end] = torch.where(mask, ids, IGNORE)
                sequence[b, start:end] = torch.where(mask, number, -1)
            start = end
    return Batch(tokens, targets, positions, segments), sequence
