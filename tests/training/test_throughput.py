"""What the training says about its speed."""

from __future__ import annotations

import pytest
import torch

from k2core.training import throughput
from k2core.training.throughput import Clock, memory_gib, peak_flops


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
