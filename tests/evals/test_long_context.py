"""The figures of a long context: losses by position are those of whole windows, and gains are of the same windows."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from k2core.data.rows.shards import TokenizedDocument, write_shards
from k2core.evals.long_context import LongContext
from k2core.model.loss import token_log_probs
from k2core.storage import StorageError

VOCAB, EOS = 64, 63


def probes(folder: Path, **changes) -> LongContext:
    random = Random(0)
    lengths = [299, 299, 20, 150, 20]
    documents = [TokenizedDocument("heldout", "web", random.choices(range(60), k=n), n) for n in lengths]
    write_shards(folder, documents, vocab_size=VOCAB, eos_id=EOS)
    values = {
        "short": 32, "long": 128, "lengths": [96, 128], "needles": 3, "passages": 5, "seed": 0
    }  # fmt: skip
    return LongContext(folder, **{**values, **changes})


def by_position(slope: float):
    """A model whose loss grows by `slope` nats per position, starting at 1."""

    def model(tokens_BT, positions_BT=None, segments_BT=None, wanted_BT=None, scored_BT=None) -> torch.Tensor:
        logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB)
        if positions_BT is not None:
            # a logit x on every token but the impossible 61 gives the others log(63 + e^-x)
            loss_BT = 4.5 + slope * positions_BT
            logits_BTV[..., 61] = (loss_BT.exp() - (VOCAB - 1)).log()
        if scored_BT is not None:
            return -token_log_probs(logits_BTV, scored_BT)
        return logits_BTV if wanted_BT is None else logits_BTV[wanted_BT]

    return model


def test_losses_by_position_are_of_windows_that_a_document_fills(tmp_path: Path) -> None:
    figures, nats_WK = probes(tmp_path).measure(by_position(0.01))
    assert nats_WK.shape == (5, 3)  # 2 × 300 tokens give two windows each, 151 tokens one
    for low, high in ((0, 32), (32, 64), (64, 128)):
        wanted = 4.5 + 0.01 * (low + high - 1) / 2
        assert figures[f"nats_per_token/position_{low}-{high}"] == pytest.approx(wanted, abs=1e-4)


def test_what_is_saved_is_paired_and_has_an_interval(tmp_path: Path) -> None:
    measured = probes(tmp_path)
    before, after = (measured.measure(by_position(slope))[1] for slope in (0.02, 0.01))
    saved = measured.saved(before, after)
    assert saved["nats_saved/position_64-128"] == pytest.approx(0.01 * 95.5, abs=1e-3)
    assert saved["nats_saved/position_64-128/low"] == pytest.approx(saved["nats_saved/position_64-128"], abs=1e-3)


def test_probes_have_names_shares_and_intervals_and_repeat(tmp_path: Path) -> None:
    figures, _ = probes(tmp_path).measure(by_position(0.0))
    assert figures == probes(tmp_path / "again").measure(by_position(0.0))[0]
    for length in (96, 128):
        assert figures[f"needle/length_{length}/depth_50"] in {0, 1 / 3, 2 / 3, 1}
        name = f"needle/length_{length}"
        assert figures[f"{name}/low"] <= figures[name] <= figures[f"{name}/high"]
    assert figures["copy_gain/distance_64"] == figures["copy_gain/distance_64/high"] == 0.0
    assert figures["bits_per_byte_long"] == figures["bits_per_byte_long/web"] > 0


def test_no_document_as_long_as_the_window_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no held-out document has 512 tokens"):
        probes(tmp_path, long=512).measure(by_position(0.0))
