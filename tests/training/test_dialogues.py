"""Packing: every dialogue whole and once, loss on masked tokens only, nothing crosses a boundary."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.data.rows.batch import IGNORE
from k2core.data.rows.packing import pack_rows
from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.training.dialogues import Dialogue, DialogueSource, dialogues_to_batch, text_dialogues

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=40)


def dialogue(number: int, length: int) -> Dialogue:
    """Tokens that name their dialogue and place; every third token is the assistant's."""
    return Dialogue([1000 * (number + 1) + place for place in range(length)], [int(p % 3 == 2) for p in range(length)])


@settings(max_examples=30)
@given(LENGTHS)
def test_batch_against_a_plain_reading(lengths):
    dialogues = [dialogue(number, length) for number, length in enumerate(lengths)]
    rows = pack_rows(lengths, 20)
    batch, sequence = dialogues_to_batch(dialogues, rows)
    predicted = Counter()
    for b, row in enumerate(rows):
        place = 0
        for segment, index in enumerate(row):
            item = dialogues[index]
            for offset, token in enumerate(item.tokens):
                assert batch.tokens_BT[b, place] == token
                assert batch.positions_BT[b, place] == offset
                assert batch.segments_BT[b, place] == segment
                last = offset + 1 == len(item.tokens)
                if not last and item.mask[offset + 1]:
                    assert batch.targets_BT[b, place] == item.tokens[offset + 1]
                    assert sequence[b, place] == index
                    predicted[index] += 1
                else:
                    assert batch.targets_BT[b, place] == IGNORE
                    assert sequence[b, place] == -1
                place += 1
        padding = slice(place, None)
        assert (batch.targets_BT[b, padding] == IGNORE).all()
        assert (batch.segments_BT[b, padding] == len(row)).all(), "padding is a segment of its own"
    assert predicted == Counter({i: sum(d.mask[1:]) for i, d in enumerate(dialogues) if sum(d.mask[1:])})


def test_a_dialogue_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="21 tokens does not fit into a row of 20"):
        DialogueSource([dialogue(0, 21)], context=20, batch_rows=1, seed=0)


def test_source_is_pure_and_an_epoch_shows_every_row_once():
    dialogues = [dialogue(number, 5 + number % 7) for number in range(40)]
    first, second = (DialogueSource(dialogues, context=20, batch_rows=3, seed=1) for _ in range(2))
    late = second.batch(9)
    assert (first.batch(9).tokens_BT == late.tokens_BT).all()
    steps = -(-len(first) // 3)
    seen = Counter()
    for step in range(steps):
        batch = first.batch(step)
        for b in range(3):
            if step * 3 + b < len(first):
                starts = batch.tokens_BT[b][(batch.positions_BT[b] == 0) & (batch.tokens_BT[b] > 0)]
                seen.update(starts.tolist())
    assert seen == Counter(1000 * (number + 1) for number in range(40))
    other = DialogueSource(dialogues, context=20, batch_rows=3, seed=2)
    assert not (other.batch(0).tokens_BT == first.batch(0).tokens_BT).all()


def test_too_few_dialogues_for_a_batch():
    with pytest.raises(ValueError, match="fill 1 rows; one batch needs 2"):
        DialogueSource([dialogue(0, 4)], context=20, batch_rows=2, seed=0)


def test_replayed_text_is_what_pretraining_learns_and_has_its_share_of_the_targets(tmp_path):
    documents = [list(range(10 * n, 10 * n + length)) for n, length in enumerate((3, 25, 8, 4, 9))]
    write_shards(tmp_path, [TokenizedDocument("train", "web", ids, 1) for ids in documents], vocab_size=100, eos_id=99)
    shards = TokenShards(tmp_path)
    found = text_dialogues(shards, {"web": 0.25}, targets=150, context=11, seed=0)
    assert sum(sum(dialogue.mask) for dialogue in found) == pytest.approx(50, abs=10)
    assert all(len(d.tokens) <= 11 and list(d.mask) == [0, *[1] * (len(d.tokens) - 1)] for d in found)
    stream = [99, *(token for ids in documents for token in [*ids, 99])]
    assert {pair for d in found for pair in pairwise(d.tokens)} <= set(pairwise(stream))
    assert text_dialogues(shards, {}, targets=150, context=11, seed=0) == []
    with pytest.raises(ValueError, match="leaves nothing for dialogues"):
        text_dialogues(shards, {"web": 1.0}, targets=1, context=11, seed=0)
