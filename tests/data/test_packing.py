"""Packing: nothing lost, nothing twice, no row too long, attention and positions apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.data.rows.batch import IGNORE
from k2core.data.rows.packing import cut, pack_rows, pieces_to_batch

EOS = 99


@given(lengths=st.lists(st.integers(1, 16), max_size=60))
def test_rows_hold_every_piece_once_and_never_overflow(lengths: list[int]) -> None:
    rows = pack_rows(lengths, 16)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= 16 for row in rows)
    assert len(rows) <= max(1, 2 * -(-sum(lengths) // 16))


def test_best_fit_beats_first_fit() -> None:
    # first fit puts the 3 into the row with 4 free and must then open a third row for the 4
    assert pack_rows([7, 6, 4, 3], 10) == [[0, 3], [1, 2]]
    with pytest.raises(ValueError, match="17 tokens does not fit"):
        pack_rows([17], 16)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12), context=st.integers(2, 16))
def test_every_token_is_a_target_once_after_its_true_predecessor(lengths: list[int], context: int) -> None:
    tokens = np.concatenate([np.append(np.arange(n) % 90, EOS) for n in lengths])
    ends = np.flatnonzero(tokens == EOS) + 1
    pieces = [p for start, end in zip([0, *ends[:-1]], ends, strict=True) for p in cut(int(start), int(end), context)]
    rows = pack_rows([piece.length for piece in pieces], context)
    batch = pieces_to_batch([(tokens, [pieces[i] for i in row]) for row in rows], context, EOS)
    counted = batch.targets_BT != IGNORE
    assert int(counted.sum()) == len(tokens)
    pairs = sorted(zip(batch.tokens_BT[counted].tolist(), batch.targets_BT[counted].tolist(), strict=True))
    assert pairs == sorted(zip([EOS, *tokens[:-1].tolist()], tokens.tolist(), strict=True))


def test_segments_and_positions_restart_and_padding_is_apart() -> None:
    tokens = np.array([1, 2, EOS, 3, EOS])
    batch = pieces_to_batch([(tokens, [*cut(0, 3, 8), *cut(3, 5, 8)])], 8, EOS)
    assert batch.tokens_BT.tolist() == [[EOS, 1, 2, EOS, 3, EOS, EOS, EOS]]
    assert batch.targets_BT.tolist() == [[1, 2, EOS, 3, EOS, IGNORE, IGNORE, IGNORE]]
    assert batch.segments_BT.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
