"""The critic: which of two replies is better under a rubric, asked and answered in the chat format (K2 §3.2.2).

The critic is a language model that reads a request, a rubric and two replies and says `A` or `B`. The probability
it gives `A`, averaged over both orders so that the position of a reply does not count, is the chance of a win; a
reply's mean chance against the others sampled for the same request is its self-critique reward.

Shapes: B sequences, T positions, M of them wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2core.chat.template import encode_dialogue
from k2core.gym.base import answer, question

if TYPE_CHECKING:
    from torch import Tensor

    from k2core.chat.tokenizer import Tokenizer
    from k2core.rl.preferences import Pair

RUBRIC = "the reply is correct, complete and says nothing that the request or a tool does not support"
CHOICES = ("A", "B")


@dataclass(frozen=True)
class Comparison:
    """One question to the critic."""

    request: str
    first: str
    second: str
    rubric: str


def messages(comparison: Comparison) -> list[dict[str, Any]]:
    """The critic's prompt."""
    text = (
        f"Rubric: {comparison.rubric}.\nRequest: {comparison.request}\n"
        f"A: {comparison.first}\nB: {comparison.second}\nBetter:"
    )
    return question(text)


def encode(tokenizer: Tokenizer, comparison: Comparison) -> list[int]:
    """Token ids up to the place of the verdict."""
    return encode_dialogue(tokenizer, messages(comparison), add_generation_prompt=True)[0]


def verdict(comparison: Comparison, first_is_better: bool) -> list[dict[str, Any]]:
    """The dialogue that teaches a verdict."""
    return [*messages(comparison), answer(CHOICES[0 if first_is_better else 1])]


def preferences(
    model: Callable[..., Tensor], tokenizer: Tokenizer, comparisons: Sequence[Comparison], context: int
) -> list[float]:
    """Probability that the first reply is better, `P(A) / (P(A) + P(B))` at the verdict, one for each comparison.

    Comparisons longer than `context` tokens are undecided (0.5).

    Args:
        model: as in `k2core.training.heldout.score`, but it is asked for logits [M, V] (`wanted_BT`).
    """
    import torch

    from k2core.data.rows.packing import pack_rows
    from k2core.training.dialogues import Dialogue, dialogues_to_batch

    choices = [tokenizer.encode(choice)[0] for choice in CHOICES]
    prompts = [encode(tokenizer, comparison) for comparison in comparisons]
    fitting = [number for number, prompt in enumerate(prompts) if len(prompt) < context]
    # a dummy target after each prompt marks the position of the verdict
    dialogues = [Dialogue([*prompts[number], choices[0]], [0] * len(prompts[number]) + [1]) for number in fitting]
    result = [0.5] * len(comparisons)
    rows = pack_rows([len(dialogue.tokens) for dialogue in dialogues], context)
    with torch.no_grad():
        for start in range(0, len(rows), 16):
            batch, sequence_BT = dialogues_to_batch(dialogues, rows[start : start + 16])
            where = sequence_BT >= 0
            logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, wanted_BT=where)
            scores = logits_MV[:, choices].float().softmax(dim=-1)[:, 0]
            for index, score in zip(sequence_BT[where].tolist(), scores.tolist(), strict=True):
                result[fitting[index]] = score
    return result


def win_rates(
    model: Callable[..., Tensor],
    tokenizer: Tokenizer,
    groups: Sequence[tuple[str, Sequence[str]]],
    rubric: str,
    context: int,
) -> list[list[float]]:
    """Self-critique rewards: for each group (request, replies) the mean chance of each reply to win.

    Every reply meets its two neighbours on a ring, in both orders: 4 comparisons per reply rather than 2(K-1).
    Equal replies tie at 0.5 by construction.
    """
    comparisons: list[Comparison] = []
    places: list[tuple[int, int, int]] = []
    for group, (request, replies) in enumerate(groups):
        for i, reply in enumerate(replies):
            j = (i + 1) % len(replies)
            if replies[j] != reply:
                comparisons += [
                    Comparison(request, reply, replies[j], rubric),
                    Comparison(request, replies[j], reply, rubric),
                ]
            places.append((group, i, j))
    scores = iter(preferences(model, tokenizer, comparisons, context))
    totals = [[0.0] * len(replies) for _, replies in groups]
    for group, i, j in places:
        replies = groups[group][1]
        chance = 0.5 if replies[i] == replies[j] else (next(scores) + 1 - next(scores)) / 2
        totals[group][i] += chance / 2
        totals[group][j] += (1 - chance) / 2
    return totals


def chances(model: Callable[..., Tensor], tokenizer: Tokenizer, pairs: Sequence[Pair], context: int) -> list[float]:
    """The chance that the better reply of each pair wins, over both orders."""
    asked = [pair.comparison(first) for pair in pairs for first in (True, False)]
    scores = preferences(model, tokenizer, asked, context)
    return [0.5 + (forward - backward) / 2 for forward, backward in zip(scores[::2], scores[1::2], strict=True)]


def rights(chances: Sequence[float]) -> list[float]:
    """Of each pair whether its better reply wins, a tie counting half."""
    return [0.5 if chance == 0.5 else float(chance > 0.5) for chance in chances]


def pairwise_accuracy(pairs: Sequence[Pair], chances: Sequence[float]) -> dict[str, float]:
    """Share of pairs whose better reply wins, a tie counting half: `all` and by kind of source."""
    by_kind: dict[str, list[float]] = {"all": []}
    for pair, right in zip(pairs, rights(chances), strict=True):
        by_kind["all"].append(right)
        by_kind.setdefault(pair.source.split("/")[0], []).append(right)
    return {kind: sum(values) / len(values) for kind, values in by_kind.items()}
