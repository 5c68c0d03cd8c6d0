"""What a training writes down: means over intervals of steps, as a CSV and as the state to resume with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k2core.storage import write_text

Metrics = dict[str, float]


LARGEST = ("spike/score",)
"""Metrics kept as an interval's largest value, though their established names do not say so."""


def extreme(name: str) -> str | None:
    """`max` or `min` if the metric is one, mostly by its name; such metrics are not averaged."""
    if name in LARGEST:
        return "max"
    words = name.replace("/", "_").split("_")
    return next((word for word in ("max", "min") if word in words), None)


@dataclass
class History:
    """Metrics of each step, gathered over `every` steps into a row; all of it goes through JSON unchanged."""

    every: int
    rows: list[Metrics] = field(default_factory=list)
    _sums: Metrics = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, metrics: Metrics) -> None:
        """One step's metrics; values that are not finite are left out (a step without routed tokens has no load)."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                continue
            kind = extreme(name)
            if name not in self._sums:
                self._sums[name] = value
            elif kind:
                self._sums[name] = (max if kind == "max" else min)(self._sums[name], value)
            else:
                self._sums[name] += value
            self._counts[name] = self._counts.get(name, 0) + 1

    def close(self, step: int, totals: Metrics) -> Metrics:
        """End the interval at `step`; returns its row: means and extremes, and `totals` unchanged."""
        means = {
            name: value if extreme(name) else value / self._counts[name] for name, value in sorted(self._sums.items())
        }
        row = {"step": float(step), **means, **totals}
        self.rows.append(row)
        self._sums, self._counts = {}, {}
        return row

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "sums": self._sums, "counts": self._counts}

    def restore(self, state: dict[str, Any]) -> None:
        self.rows, self._sums, self._counts = state["rows"], state["sums"], state["counts"]

    def write(self, path: Path) -> None:
        """The rows as CSV, `step` first, other columns by name."""
        names = sorted({name for row in self.rows for name in row} - {"step"})
        lines = [",".join(["step", *names])]
        for row in self.rows:
            lines.append(",".join([str(int(row["step"])), *(f"{row[n]:.6g}" if n in row else "" for n in names)]))
        write_text(path, "\n".join(lines) + "\n")
