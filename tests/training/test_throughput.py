"""What the training says about its speed."""

from __future__ import annotations

import pytest
import torch
from test_trainer import MODEL
from torch.utils.flop_counter import FlopCounterMode

from k2core.model.transformer import Transformer
from k2core.ops import using
from k2core.training import throughput
from k2core.training.throughput import Clock, memory_gib, peak_flops, training_flops


@pytest.mark.parametrize("kind", ["mla", "mha"])
def test_flops_are_those_that_torch_counts(kind: str) -> None:
    """For a dense model and rows of one query block: there the causal half is counted as skipped, but is not."""
    T = 32
    config = MODEL.model_copy(update={
        "attention": kind, "first_k_dense_replace": MODEL.num_hidden_layers, "vocab_size": 64, "hidden_size": 32,
        "q_lora_rank": 16 if kind == "mla" else MODEL.q_lora_rank,
    })  # fmt: skip
    model = Transformer(config)
    with using("reference"), FlopCounterMode(display=False) as counter:
        model(torch.randint(64, (2, T))).sum().backward()
    heads = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    skipped = 3 * config.num_hidden_layers * 2 * heads * (T - (T + 1) / 2)
    assert counter.get_total_flops() / (2 * T) == pytest.approx(training_flops(model, T) + skipped, rel=0.03)


def test_the_peak_is_measured_and_memory_is_that_of_this_process() -> None:
    assert 1e8 < peak_flops(torch.device("cpu")) < 1e14
    assert 0.05 < memory_gib(torch.device("cpu")) < 100


def test_the_clock_shares_out_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now)
    clock = Clock()
    clock.start(1000)
    for what, seconds in (("step", 0.06), ("data", 0.03), ("validation", 0.05)):
        with clock.on(what):
            now += seconds
    now += 0.01
    figures = clock.report(1500, flops_per_token=2.0, peak=1e4)
    assert figures["throughput/tps"] == pytest.approx(5000)  # 500 tokens in 0.1 s: validation does not count
    assert figures["throughput/mfu"] == pytest.approx(1.0)
    assert figures["throughput/overhead_pct"] == pytest.approx(40)
    assert figures["throughput/data_loading_pct"] == pytest.approx(30)
    now += 1.0
    assert clock.report(1500, 2.0, None) == {
        "throughput/tps": 0.0, "throughput/data_loading_pct": 0.0, "throughput/overhead_pct": 100.0,
        "checkpoint/save_s": 0.0,
    }  # fmt: skip
