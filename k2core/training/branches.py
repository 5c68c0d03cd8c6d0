"""Responses to one prompt as branches of one trunk, so that a training step computes the prompt once for all of them.

Logits and gradients are those of prompt and response as one dialogue, up to rounding. The router's load counts the
prompt's tokens once.

Shapes: B rows, R rows of trees (the same), T positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.data.rows.trees import Tree, tree_rows
from k2core.ops import MOST_BRANCHES
from k2core.training.dialogues import Dialogue


def grow(prompt: Sequence[int], responses: Mapping[int, Dialogue], context: int) -> list[Tree]:
    """Trees of at most `context` positions that together hold all responses to a prompt, in order, by their numbers.

    The prompt's last token begins each branch, for what follows it is each response's own; the last token of a response
    is not read.

    Raises:
        ValueError: the prompt and one response are longer than `context`.
    """
    *trunk, last = prompt
    trees: list[dict[int, Sequence[int]]] = [{}]
    used = len(trunk)
    for number, response in responses.items():
        if len(trunk) + len(response.tokens) > context:
            raise ValueError(
                f"a prompt and a response of {len(prompt)} + {len(response.tokens)} tokens exceed {context}"
            )
        if used + len(response.tokens) > context or len(trees[-1]) == MOST_BRANCHES:
            trees.append({})
            used = len(trunk)
        trees[-1][number] = [last, *response.tokens[:-1]]
        used += len(response.tokens)
    return [Tree(trunk, branches) for branches in trees if branches]


def trees_to_batch(
    trees: Sequence[Tree], responses: Mapping[int, Dialogue], rows: Sequence[Sequence[int]], width: int = 0
) -> tuple[Batch, Tensor]:
    """Rows of trees as a batch as wide as the longest row, or `width` if that is more.

    Returns:
        The batch, and `sequence_BT`: number of the response whose target token is the target there, else -1.
    """
    made = tree_rows(trees, rows, width)
    targets, sequence = torch.full_like(made.tokens_RT, IGNORE), torch.full_like(made.tokens_RT, -1)
    for number, place in made.places.items():
        ids, mask = torch.tensor(responses[number].tokens), torch.tensor(responses[number].mask, dtype=torch.bool)
        own = place.row, slice(place.branch.start, place.branch.stop)
        targets[own] = torch.where(mask, ids, IGNORE)
        sequence[own] = torch.where(mask, number, -1)
    return Batch(made.tokens_RT, targets, made.positions_RT, made.segments_RT), sequence
