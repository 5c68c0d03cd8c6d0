"""What a model knows of the articles: its choice among answers by likelihood, and the bits of the right answer.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.articles import Item

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

BATCH_TOKENS = 4096


def score(model: Any, tokenizer: Tokenizer, items: Sequence[Item]) -> tuple[list[bool], list[float]]:
    """For each item whether the right answer is the likeliest, and the right answer's bits given the question.

    Likelihoods are compared per token, so that short answers have no advantage; a tie counts as wrong.
    """
    rows = [
        (tokenizer.encode(item.question), tokenizer.encode(f" {choice}")) for item in items for choice in item.choices
    ]
    nats = iter(_nats(model, [([tokenizer.eos_id, *question], answer) for question, answer in rows]))
    lengths = iter(len(answer) for _, answer in rows)
    correct, bits = [], []
    for item in items:
        of_choices = [(next(nats), next(lengths)) for _ in item.choices]
        right, *wrong = (total / length for total, length in of_choices)
        correct.append(right < min(wrong))
        bits.append(of_choices[0][0] / math.log(2))
    return correct, bits


def _nats(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """-log p(continuation | prefix) of each row, nats; rows of like length share a batch."""
    import torch

    from k2core.model.loss import IGNORE, token_log_probs

    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    nats = [0.0] * len(rows)
    start = 0
    with torch.no_grad():
        while start < len(order):
            count = 1
            while (
                start + count < len(order) and (count + 1) * sum(map(len, rows[order[start + count]])) <= BATCH_TOKENS
            ):
                count += 1
            chosen = order[start : start + count]
            width = sum(map(len, rows[chosen[-1]])) - 1
            tokens_BT = torch.zeros(count, width, dtype=torch.int64)
            targets_BT = torch.full((count, width), IGNORE)
            for b, index in enumerate(chosen):
                prefix, rest = rows[index]
                tokens_BT[b, : len(prefix) + len(rest) - 1] = torch.tensor([*prefix, *rest][:-1])
                targets_BT[b, len(prefix) - 1 : len(prefix) - 1 + len(rest)] = torch.tensor(rest)
            sums_B = token_log_probs(model(tokens_BT), targets_BT).double().sum(dim=1)
            for index, value in zip(chosen, sums_B.tolist(), strict=True):
                nats[index] = -value
            start += count
    return nats
