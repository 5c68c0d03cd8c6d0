"""Bits per byte against cases with a known answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.model.loss import token_log_probs
from k2core.storage import StorageError
from k2core.training.heldout import bits_per_byte, score

VOCAB, EOS = 16, 15
TEXTS = {"web": [[1, 2, 3, 4, 5, 6, 7], [8] * 30], "code": [[9, 10]]}
BYTES = {"web": [20, 31], "code": [6]}


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    documents = [
        TokenizedDocument("heldout", domain, ids, size)
        for domain in TEXTS
        for ids, size in zip(TEXTS[domain], BYTES[domain], strict=True)
    ]
    write_shards(tmp_path, documents, vocab_size=VOCAB, eos_id=EOS)
    return tmp_path


def losses(logits_BTV, scored_BT):
    return -token_log_probs(logits_BTV, scored_BT)


def uniform(tokens_BT, positions_BT, segments_BT, scored_BT):
    return losses(torch.zeros(*tokens_BT.shape, VOCAB), scored_BT)


def bigram(tokens_BT, positions_BT, segments_BT, scored_BT):
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    return losses(table[tokens_BT], scored_BT)


def test_a_uniform_model_pays_the_vocabulary_for_every_token(tokens: Path) -> None:
    found = bits_per_byte(uniform, tokens, context=8)
    assert found["code"] == pytest.approx(math.log2(VOCAB) * 3 / 6)
    assert found["web"] == pytest.approx(math.log2(VOCAB) * (8 + 31) / 51)
    assert found["all"] == pytest.approx(math.log2(VOCAB) * 42 / 57)


def test_windows_do_not_change_what_is_counted(tokens: Path) -> None:
    # a bigram model does not look further back than one token, which every window has
    short, long = (bits_per_byte(bigram, tokens, context=context) for context in (4, 64))
    assert short == pytest.approx(long)


def test_every_token_of_every_document_counts(tokens: Path) -> None:
    scored = score(uniform, TokenShards(tokens), "web", context=8)
    assert len(scored.nats_N) == 39 and scored.bytes == 51
    assert scored.positions_N.max() == 7


def test_nothing_held_out_is_a_fault(tmp_path: Path) -> None:
    write_shards(tmp_path, [TokenizedDocument("train", "web", [1], 1)], vocab_size=VOCAB, eos_id=EOS)
    with pytest.raises(StorageError, match="no held-out documents"):
        bits_per_byte(uniform, tmp_path, context=8)
