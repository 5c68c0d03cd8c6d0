"""Bits per byte on held-out text: comparable across tokenizers, contexts and phases.

Every token of a document counts, its end mark included, over the UTF-8 bytes of its text. Documents longer than the
context are scored in windows without overlap, so a longer context can only be shown to help, not assumed to.

Shapes: B sequences, N tokens, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from k2core.data.rows.batch import IGNORE
from k2core.data.rows.packing import Piece, cut, pack_rows, pieces_to_batch
from k2core.data.rows.shards import TokenShards
from k2core.storage import StorageError

FIGURE, COLUMN = "heldout/bits_per_byte", "val/bpb"
"""The name of bits per byte among a stage's figures and in the columns of a plot."""
ROW_TOKENS = 4096
"""Tokens per forward pass."""


@dataclass(frozen=True)
class Scored:
    """Losses of one domain: `nats_N` and `positions_N` per token, and the bytes of the text they cover."""

    nats_N: np.ndarray
    positions_N: np.ndarray
    bytes: int

    @property
    def bits(self) -> float:
        return float(self.nats_N.sum()) / math.log(2)


@torch.no_grad()
def score(model: Callable[..., Tensor], shards: TokenShards, domain: str, *, context: int) -> Scored:
    """Losses of `model` on a held-out domain.

    Args:
        model: (tokens_BT, positions_BT, segments_BT, scored_BT=…) → each target's loss [B, T], in nats: on the CPU, as
            its arguments are, but computed where the model is.

    Raises:
        StorageError: the held-out split has nothing of the domain.
    """
    tokens, ends = shards.tokens("heldout", domain), shards.document_ends("heldout", domain)
    starts = [0, *ends[:-1].tolist()]
    pieces: list[Piece] = [
        piece for start, end in zip(starts, ends.tolist(), strict=True) for piece in cut(start, end, context)
    ]
    rows = pack_rows([piece.length for piece in pieces], context)
    step = max(1, ROW_TOKENS // context)
    nats, positions = [], []
    for at in range(0, len(rows), step):
        chosen = [(tokens, [pieces[index] for index in row]) for row in rows[at : at + step]]
        batch = pieces_to_batch(chosen, context, shards.eos_id)
        nats_BT = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, scored_BT=batch.targets_BT)
        counted_BT = batch.targets_BT != IGNORE
        nats.append(nats_BT[counted_BT].double().numpy())
        positions.append(batch.positions_BT[counted_BT].numpy())
    covered = int(shards.document_bytes("heldout", domain).sum())
    return Scored(np.concatenate(nats), np.concatenate(positions), covered)


def score_all(model: Callable[..., Tensor], tokens: Path, *, context: int) -> dict[str, Scored]:
    """`score` for every held-out domain of the shards in `tokens`."""
    shards = TokenShards(tokens)
    if not shards.domains("heldout"):
        raise StorageError(f"{tokens}: no held-out documents; raise the held-out share in curate")
    return {domain: score(model, shards, domain, context=context) for domain in shards.domains("heldout")}


def bits_per_byte(model: Callable[..., Tensor], tokens: Path, *, context: int) -> dict[str, float]:
    """Bits per byte of each domain, and of `all`: all bits over all bytes.

    Args:
        tokens: the shards' folder; `tokenize.max_heldout_tokens` says how much of it is held out.
    """
    return summary(score_all(model, tokens, context=context))


def summary(scored: dict[str, Scored]) -> dict[str, float]:
    """Bits per byte from losses, under the names of `bits_per_byte`."""
    total = sum(item.bits for item in scored.values()) / sum(item.bytes for item in scored.values())
    return {"all": total} | {domain: item.bits / item.bytes for domain, item in scored.items()}


def figure_names(values: dict[str, float], prefix: str = FIGURE) -> dict[str, float]:
    """The same values under a stage's figure names: `prefix` for `all`, `prefix/DOMAIN` for a domain."""
    return {prefix if name == "all" else f"{prefix}/{name}": value for name, value in values.items()}


def figures_of(row: dict[str, float]) -> dict[str, float]:
    """What a row of a plot has under `COLUMN`, as a stage's figures."""
    return {FIGURE + name.removeprefix(COLUMN): value for name, value in row.items() if name.startswith(COLUMN)}
