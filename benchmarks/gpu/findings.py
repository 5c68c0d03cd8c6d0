"""What is found: printed at once, and kept in a JSON file."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from k2core.machine import device
from k2core.machine.device import Precision
from k2core.training.throughput import peak_flops

FLOORED = ("H100", "H200", "H800")
"""Cards on which a speed below its floor is a fault."""


class Findings:
    """The rows so far.

    Attributes:
        device: what is looked at; `peak` is its FLOP/s, if known.
        small: sizes that take seconds.
    """

    def __init__(self, where: Literal["cuda", "cpu"], small: bool, seconds: float, path: Path) -> None:
        self.device, self.small, self.path, self.end = torch.device(where), small, path, time.monotonic() + seconds
        self.rows: list[dict[str, Any]] = []
        self.card = torch.cuda.get_device_name() if self.cuda else "CPU"
        self.peak = peak_flops(self.device)
        self.floored = not small and any(name in self.card for name in FLOORED)
        self.note("machine", self.card, note=f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def note(
        self, name: str, value: float | str, unit: str = "", *, bound: float | None = None, floor: float | None = None,
        met: bool | None = None, note: str = "",
    ) -> None:  # fmt: skip
        """Add a finding.

        Args:
            bound: what `value` may not exceed, wherever it is measured.
            floor: what a speed should reach, on the cards that it was set for.
        """
        if isinstance(value, float):
            if bound is not None:
                met = value <= bound
            elif floor is not None and self.floored:
                met = value >= floor
        row = {"name": name, "value": value, "unit": unit, "bound": bound, "floor": floor, "met": met, "note": note}
        self.rows.append(row)
        scratch = self.path.with_suffix(".partial")
        scratch.write_text(json.dumps(self.rows, indent=1))
        os.replace(scratch, self.path)
        shown = f"{value:,.4g}" if isinstance(value, float) else value
        limit = f" (≤ {bound:g})" if bound is not None else f" (≥ {floor:g})" if floor is not None else ""
        verdict = {True: "ok    ", False: "MISSED", None: "      "}[met]
        print(f"{verdict} {name}: {shown} {unit}{limit} {note}".rstrip(), flush=True)

    def value(self, name: str) -> float | None:
        """The value of an earlier row."""
        return next((row["value"] for row in self.rows if row["name"] == name), None)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def free(self) -> None:
        """Give memory back, and forget compiled code."""
        gc.collect()
        if self.cuda:
            torch.compiler.reset()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def gib(self) -> float:
        """The most memory of the GPU that was in use since `free`."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.cuda else 0.0

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Seconds of one call, mean of `rounds` after two that do not count (they compile)."""
        for _ in range(1 if self.small else 2):
            work()
        self.wait()
        begun = time.perf_counter()
        for _ in range(1 if self.small else rounds):
            work()
        self.wait()
        return (time.perf_counter() - begun) / (1 if self.small else rounds)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def computing(self, precision: Precision, where: Literal["here", "cpu"] = "here") -> Iterator[None]:
        """Within the block all is as `Compute.apply` makes it; a CPU to compare with computes as the reference."""
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("error")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        on_cpu = where == "cpu" or not self.cuda
        device.choose("cpu" if on_cpu else "cuda", "reference" if where == "cpu" else "auto", precision)
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)
            device.choose("cpu" if not self.cuda else "cuda", "auto", "fp32")
