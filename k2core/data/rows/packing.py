"""Documents into rows of equal length: cut only what is too long, then best fit (Ding et al. 2024, §3).

A document d0 … dn with the end mark E is learnt as the pairs (E→d0), (d0→d1), …, (dn→E): every token is a target once,
the first one too, and the end mark stands for "a document begins". Pairs are cut into pieces of at most one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from k2core.data.rows.batch import IGNORE, Batch


@dataclass(frozen=True, slots=True)
class Piece:
    """`length` consecutive pairs: inputs `tokens[start : start+length]`, targets one further on."""

    start: int
    length: int


def cut(start: int, end: int, context: int) -> list[Piece]:
    """The pieces of the document `tokens[start:end]` (end mark included), each at most `context` pairs.

    Piece starts may be -1: the input is then the end mark that would stand before the first document.
    """
    return [Piece(a, min(context, end - 1 - a)) for a in range(start - 1, end - 1, context)]


def position_buckets(context: int) -> list[tuple[int, int]]:
    """Positions 0 … context-1 in log-spaced ranges [low, high): the second half, the second quarter …, down to 32."""
    edges = [context]
    while edges[0] // 2 >= 32:
        edges.insert(0, edges[0] // 2)
    return list(pairwise([0, *edges]))


def pack_rows(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Indices of the pieces in each row of at most `context` tokens: best fit, longest first, stable.

    Raises:
        ValueError: a piece is longer than `context`.
    """
    open_rows: list[list[int]] = [[] for _ in range(context + 1)]  # by free space: numbers of rows
    spaces = 0  # bit s is set where open_rows[s] is not empty: the best fit is the lowest bit from `length` on
    rows: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > context:
            raise ValueError(f"a piece of {length} tokens does not fit into a row of {context}")
        fitting = spaces >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                spaces ^= 1 << free
        else:
            rows.append([])
            row, free = len(rows) - 1, context
        rows[row].append(index)
        open_rows[free - length].append(row)
        spaces |= 1 << (free - length)
    return rows


def pieces_to_batch(rows: Iterable[tuple[np.ndarray, Sequence[Piece]]], context: int, eos_id: int) -> Batch:
    """Rows of pieces, each with the tokens they point into, as a batch of `context` columns.

    Segments number the pieces of a row from 0, padding is the last segment; positions restart in each.
    """
    rows = list(rows)
    shape = (len(rows), context)
    inputs, targets = np.full(shape, eos_id, np.int64), np.full(shape, IGNORE, np.int64)
    positions, segments = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for b, (tokens, pieces) in enumerate(rows):
        at = 0
        for number, piece in enumerate(pieces):
            end, first = at + piece.length, max(piece.start, 0)
            inputs[b, at + first - piece.start : end] = tokens[first : piece.start + piece.length]
            targets[b, at:end] = tokens[piece.start + 1 : piece.start + piece.length + 1]
            positions[b, at:end], segments[b, at:end] = np.arange(piece.length), number
            at = end
        positions[b, at:], segments[b, at:] = np.arange(context - at), len(pieces)
    return Batch(*(torch.from_numpy(array) for array in (inputs, targets, positions, segments)))
