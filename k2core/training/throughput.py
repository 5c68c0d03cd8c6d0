"""How fast a training is: tokens per second, share of the machine's peak, and what the time goes into (live only)."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from k2core.stage import Metrics

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "H800": 989e12}
"""Dense bf16 FLOP/s of GPUs by a part of their name (data sheets; the SXM versions)."""


def peak_flops(device: torch.device) -> float | None:
    """FLOP/s of this process's device: from the data sheet for a known GPU, measured for a CPU (fp32, 0.1 s)."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((peak for part, peak in PEAKS.items() if part in name), None)
    a = torch.ones(1024, 1024)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - begun)
    return 2 * 1024**3 / best


def memory_gib(device: torch.device) -> float:
    """The most memory this process has held so far, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Clock:
    """Seconds since the last report, by what they were spent on, such as `data`, `step` or `checkpoint`; the rest is
    logging and the loop itself."""

    def __init__(self) -> None:
        self._begin(0)

    def _begin(self, tokens: int) -> None:
        self._since, self._tokens, self._spent = time.perf_counter(), tokens, dict[str, float]()

    def start(self, tokens: int) -> None:
        """Start counting now, with `tokens` seen."""
        self._begin(tokens)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the block's time as spent on `what`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent[what] = self._spent.get(what, 0.0) + time.perf_counter() - begun

    def seconds(self) -> Metrics:
        """What the time since the last report went into, in seconds, as `time/...`; `time/other` is the rest."""
        wall = time.perf_counter() - self._since
        figures = {f"time/{what}": spent for what, spent in self._spent.items()}
        figures["time/other"] = max(0.0, wall - sum(self._spent.values()))
        self._begin(self._tokens)
        return figures

    def report(self, tokens: int, flops_per_token: float, peak: float | None) -> Metrics:
        """Rates since the last report, with `tokens` seen by now.

        Validation is measurement, not overhead: its time is left out of all rates.
        """
        wall = max(time.perf_counter() - self._since - self._spent.get("validation", 0.0), 1e-9)
        rate = (tokens - self._tokens) / wall
        figures = {
            "throughput/tps": rate,
            "throughput/data_loading_pct": 100 * self._spent.get("data", 0.0) / wall,
            "throughput/overhead_pct": 100 * (1 - self._spent.get("step", 0.0) / wall),
            "checkpoint/save_s": self._spent.get("checkpoint", 0.0),
        }
        if peak:
            figures["throughput/mfu"] = rate * flops_per_token / peak
        self._begin(tokens)
        return figures
