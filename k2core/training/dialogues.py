"""Chat dialogues as training batches: packed whole, attention within each, loss on assistant tokens only.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import torch
from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.data.rows.packing import cut, pack_rows
from k2core.data.rows.shards import TokenShards
from k2core.data.rows.spans import SPAN, shuffled


@dataclass(frozen=True)
class Dialogue:
    """Token ids and, for each, 1 if the model is to produce it (`k2core.chat.template.encode_dialogue`)."""

    tokens: Sequence[int]
    mask: Sequence[int]


def dialogues_to_batch(
    dialogues: Sequence[Dialogue], rows: Sequence[Sequence[int]], width: int = 0
) -> tuple[Batch, Tensor]:
    """Rows of dialogues as a batch as wide as the longest row, or `width` if that is more.

    Returns:
        The batch, and `sequence_BT`: index of the dialogue whose masked token is the target there, else -1.
        Segments number the dialogues of a row from 0; padding is a segment of its own. Positions restart at 0.
    """
    width = max(width, widest(dialogues, rows))
    shape = (len(rows), width)
    tokens, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    targets, sequence = torch.full(shape, IGNORE), torch.full(shape, -1)
    segments = torch.tensor([[len(row)] for row in rows]).repeat(1, width)
    for b, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row):
            ids, mask = torch.tensor(dialogues[index].tokens), torch.tensor(dialogues[index].mask, dtype=torch.bool)
            end = start + len(ids)
            tokens[b, start:end], positions[b, start:end] = ids, torch.arange(len(ids))
            segments[b, start:end] = segment
            targets[b, start : end - 1] = torch.where(mask[1:], ids[1:], IGNORE)
            sequence[b, start : end - 1] = torch.where(mask[1:], index, -1)
            start = end
    return Batch(tokens, targets, positions, segments), sequence


def widest(dialogues: Sequence[Dialogue], rows: Sequence[Sequence[int]]) -> int:
    """Tokens of the longest row."""
    return max(sum(len(dialogues[index].tokens) for index in row) for row in rows)


class DialogueSource:
    """A `BatchSource` over dialogues: packed once, the rows in a new order every epoch; `batch(step)` is pure.

    Args:
        shared: processes that share each row; a batch is as wide as they can cut.

    Raises:
        ValueError: fewer rows than one batch, or a dialogue longer than `context`.
    """

    def __init__(
        self, dialogues: Sequence[Dialogue], *, context: int, batch_rows: int, seed: int, shared: int = 1
    ) -> None:
        order = list(range(len(dialogues)))
        Random(f"{seed}/pack").shuffle(order)  # so that equally long dialogues of one kind do not share rows
        self._given, self.dialogues = order, [dialogues[index] for index in order]
        self.rows = pack_rows([len(dialogue.tokens) for dialogue in self.dialogues], context)
        self.batch_rows, self.seed, self.shared = batch_rows, seed, shared
        if len(self.rows) < batch_rows:
            raise ValueError(f"{len(dialogues)} dialogues fill {len(self.rows)} rows; one batch needs {batch_rows}")
        self._order = lru_cache(maxsize=2)(self._epoch)

    def __len__(self) -> int:
        """Rows in an epoch."""
        return len(self.rows)

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """Batch number `step`, or only its rows `rows`; a batch may reach from one epoch into the next.

        Some rows are as wide as all of them: routers and largest logits see padding too, so that a process alone and
        several with parts of the batch must pad alike.
        """
        chosen = [self.rows[row] for row in self._chosen(step)]
        width = widest(self.dialogues, chosen)
        if self.shared > 1:
            width += -width % (2 * self.shared)
        if rows is not None:
            chosen = chosen[rows.start : rows.stop]
        return dialogues_to_batch(self.dialogues, chosen, width)[0]

    def samples(self, step: int) -> list[str]:
        """`dialogue/index` of each dialogue of batch number `step`, as given to the source."""
        indices = {self._given[index] for row in self._chosen(step) for index in self.rows[row]}
        return [f"dialogue/{index}" for index in sorted(indices)]

    def _chosen(self, step: int) -> list[int]:
        """Numbers of the rows of batch number `step`."""
        numbers = range(step * self.batch_rows, (step + 1) * self.batch_rows)
        return [self._order(number // len(self.rows))[number % len(self.rows)] for number in numbers]

    def _epoch(self, epoch: int) -> list[int]:
        order = list(range(len(self.rows)))
        Random(f"{self.seed}/epoch/{epoch}").shuffle(order)
        return order


def text_dialogues(
    shards: TokenShards, shares: Mapping[str, float], *, targets: int, context: int, seed: int
) -> list[Dialogue]:
    """Training text as dialogues whose every token is a target; fine-tuning replays it so as not to forget it.

    Args:
        shares: of all targets, by domain; the rest are the dialogues'.
        targets: target tokens of the dialogues.
        context: most tokens per piece, including the end mark before it.

    Raises:
        StorageError: the shards have no such domain.
        ValueError: the shares leave the dialogues nothing.
    """
    rest = 1 - sum(shares.values())
    if rest <= 0:
        raise ValueError(f"text of {1 - rest:.0%} of the targets leaves nothing for dialogues; lower its shares")
    replayed = []
    for domain, share in sorted(shares.items()):
        ids, missing = shards.tokens("train", domain), round(targets * share / rest)
        ends = shards.document_ends("train", domain)
        for place in itertools.count():
            if missing <= 0:
                break
            span, within = divmod(place % len(ends), SPAN)
            number = int(shuffled(f"{seed}/replay/{domain}", len(ends), span)[within])
            start = int(ends[number - 1]) if number else 0
            for piece in cut(start, int(ends[number]), context - 1):
                first = shards.eos_id if piece.start < start else int(ids[piece.start])
                tokens = [first, *ids[piece.start + 1 : piece.start + 1 + piece.length].tolist()]
                replayed.append(Dialogue(tokens, [0, *[1] * piece.length]))
                missing -= piece.length
    return replayed


@torch.no_grad()
def dialogue_loss(
    model: Callable[..., Tensor], dialogues: Sequence[Dialogue], *, context: int, batch_rows: int
) -> float:
    """Mean loss of `model` over `dialogues`, in nats per assistant token.

    Args:
        model: as in `k2core.training.heldout.score`.

    Raises:
        ValueError: there is no assistant token.
    """
    rows = pack_rows([len(dialogue.tokens) for dialogue in dialogues], context)
    total, count = 0.0, 0
    for start in range(0, len(rows), batch_rows):
        batch, sequence = dialogues_to_batch(dialogues, rows[start : start + batch_rows])
        nats_BT = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, scored_BT=batch.targets_BT)
        total += float(nats_BT.double().sum())
        count += int((sequence >= 0).sum())
    if not count:
        raise ValueError("no assistant tokens to measure the loss on")
    return total / count
