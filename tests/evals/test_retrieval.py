"""A model that copies finds every needle and gains on every passage, one that guesses does neither."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import fmean

import pytest
import torch

from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.evals.retrieval import CANDIDATES, DEPTHS, NEEDLE, copy_gains, distance, needles_found
from k2core.storage import StorageError

VOCAB = 64


@pytest.fixture
def shards(tmp_path: Path) -> TokenShards:
    tokens = Random(0).choices(range(60), k=600)
    write_shards(tmp_path, [TokenizedDocument("heldout", "web", tokens, 600)], vocab_size=VOCAB, eos_id=63)
    return TokenShards(tmp_path)


def copier(reach: int, needed: int = NEEDLE - 1):
    """Expects what followed the last `needed` tokens where they stood before, at most `reach` tokens back."""

    def model(tokens_BT: torch.Tensor, wanted_BT: torch.Tensor) -> torch.Tensor:
        logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB)
        for row, tokens in enumerate(tokens_BT.tolist()):
            for end in torch.nonzero(wanted_BT[row]).flatten().tolist():
                asked = tokens[end + 1 - needed : end + 1]
                for at in range(max(needed - 1, end - reach), end):
                    if tokens[at + 1 - needed : at + 1] == asked:
                        logits_BTV[row, end, tokens[at + 1]] = 10.0
        return logits_BTV[wanted_BT]

    return model


def ignorant(tokens_BT: torch.Tensor, wanted_BT: torch.Tensor) -> torch.Tensor:
    """Its guesses depend on the row and the place, not on what stood before."""
    logits_BTV = torch.randn(*tokens_BT.shape, VOCAB, generator=torch.Generator().manual_seed(int(tokens_BT.sum())))
    return logits_BTV[wanted_BT]


def test_copying_finds_the_needle_at_every_depth(shards: TokenShards) -> None:
    found = needles_found(copier(reach=96), shards, length=96, samples=10, seed=0)
    assert found == dict.fromkeys(DEPTHS, 10)


def test_a_short_reach_finds_only_the_near_needles(shards: TokenShards) -> None:
    found = needles_found(copier(reach=40), shards, length=128, samples=10, seed=0)
    assert (found[0], found[25], found[100]) == (0, 0, 10)


def test_ignorance_finds_what_chance_gives(shards: TokenShards) -> None:
    found = needles_found(ignorant, shards, length=96, samples=200, seed=0)
    assert 0.3 / CANDIDATES < sum(found.values()) / (200 * len(found)) < 2 / CANDIDATES


def test_a_repeated_passage_is_a_gain_within_reach_only(shards: TokenShards) -> None:
    assert distance(160) == 96

    def gain(model) -> float:
        return fmean(copy_gains(model, shards, length=160, samples=8, seed=0))

    assert gain(copier(reach=96, needed=4)) > 3.0
    assert abs(gain(copier(reach=95, needed=4))) < 0.1
    assert abs(gain(ignorant)) < 0.5


def test_random_passages_are_copied_by_a_copier_alone(shards: TokenShards) -> None:
    def gain(model) -> float:
        return fmean(copy_gains(model, shards, length=128, samples=8, seed=0, random_tokens=True))

    assert gain(copier(reach=64, needed=4)) > 3.0
    assert abs(gain(ignorant)) < 0.5


def test_a_model_that_is_worse_at_late_positions_gains_nothing(shards: TokenShards) -> None:
    def declining(tokens_BT: torch.Tensor, wanted_BT: torch.Tensor) -> torch.Tensor:
        logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB)
        logits_BTV[..., 0] = torch.arange(tokens_BT.shape[1]) / 10
        return logits_BTV[wanted_BT]

    assert copy_gains(declining, shards, length=128, samples=4, seed=0) == [0.0] * 4


def test_too_little_text_is_a_fault(shards: TokenShards) -> None:
    with pytest.raises(StorageError, match="cannot fill a row of 700"):
        needles_found(copier(reach=96), shards, length=700, samples=1, seed=0)
