"""Needles: a model that copies finds all, one that knows nothing as many as chance; too little text is a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from k2core.corpus.shards import Document, Shards, write_shards
from k2core.storage import StorageError
from k2core.training.retrieval import CANDIDATES, DEPTHS, NEEDLE, needle_accuracy

VOCAB = 64


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    documents = [Document("heldout", "web", [i % 60 for i in range(300)], 300)]
    write_shards(tmp_path, documents, vocab_size=VOCAB, eos_id=63)
    return Shards(tmp_path)


def copier(tokens_BT: torch.Tensor) -> torch.Tensor:
    """Predicts what followed the last earlier occurrence of the final `NEEDLE - 1` tokens."""
    logits = torch.zeros(*tokens_BT.shape, VOCAB)
    for row, tokens in enumerate(tokens_BT.tolist()):
        asked = tokens[-(NEEDLE - 1) :]
        for at in range(len(tokens) - NEEDLE):
            if tokens[at : at + NEEDLE - 1] == asked:
                logits[row, -1, tokens[at + NEEDLE - 1]] = 10.0
    return logits


def ignorant(tokens_BT: torch.Tensor) -> torch.Tensor:
    return torch.randn(*tokens_BT.shape, VOCAB, generator=torch.Generator().manual_seed(int(tokens_BT.sum())))


def test_copying_finds_the_needle_at_every_depth(shards: Shards) -> None:
    assert needle_accuracy(copier, shards, context=96, samples=10, seed=0) == dict.fromkeys(DEPTHS, 1.0)


def test_ignorance_finds_what_chance_gives(shards: Shards) -> None:
    found = needle_accuracy(ignorant, shards, context=96, samples=200, seed=0)
    assert 0.3 / CANDIDATES < sum(found.values()) / len(found) < 2 / CANDIDATES


def test_too_little_text_is_a_fault(shards: Shards) -> None:
    with pytest.raises(StorageError, match="cannot hide a needle"):
        needle_accuracy(copier, shards, context=400, samples=1, seed=0)
