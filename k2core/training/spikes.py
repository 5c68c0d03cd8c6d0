"""Steps to leave out: a loss or gradient norm far above its recent past, or not finite at all.

The verdict comes before the step touches weights or optimiser. Both figures are the whole batch's, so that all
processes judge alike. Only accepted steps enter the history (OLMo-core's SkipStepOptimizer lets spikes in too, and
then takes the next one for normal).
"""

from __future__ import annotations

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.recipe import Section

SKIPPED = "skipped.jsonl"
LEAST_DEVIATION = 0.01
"""Share of the mean: a history that hardly varies must not turn noise into spikes."""


class SpikeConfig(Section):
    """Section `spikes`: when a training step is left out."""

    window: int = Field(ge=2, description="accepted steps that a step is compared with")
    min_history: int = Field(ge=2, description="accepted steps before any finite step is called a spike")
    deviations: float = Field(gt=0, description="standard deviations above the mean from which a step is a spike")
    max_in_a_row: int = Field(ge=1, description="steps left out in a row that stop the run")


class Spikes:
    """The recent past of a training, and the record of what was left out (`skipped.jsonl` in `folder`).

    The record is written at once: a step that was left out stays out, whatever is resumed, and even if another number
    of processes rounds differently.
    """

    def __init__(self, settings: SpikeConfig, folder: Path) -> None:
        self.settings, self.path = settings, folder / SKIPPED
        self.values: dict[str, list[float]] = {"loss": [], "gradient norm": []}
        self.in_a_row = 0
        self.records: dict[int, dict[str, Any]] = {}
        """Step → what is known of a step that was left out."""
        if self.path.exists():
            lines = self.path.read_text().split("\n")
            self._remember([json.loads(line) for line in lines if line.endswith("}")])  # the last may be torn

    def score(self, loss: float, norm: float) -> float:
        """Standard deviations above the mean, the larger of the two; infinite if one is not finite, 0 if too early."""
        return max(self._score(name, value) for name, value in self._named(loss, norm).items())

    def verdict(self, loss: float, norm: float) -> str | None:
        """Why the step is to be left out, or None."""
        for name, value in self._named(loss, norm).items():
            if not math.isfinite(value):
                return f"its {name} is {value}"
            score = self._score(name, value)
            if score > self.settings.deviations:
                past = self.values[name]
                return f"its {name} {value:.4g} is {score:.1f} deviations above the mean {statistics.fmean(past):.4g}"
        return None

    def accept(self, loss: float, norm: float) -> None:
        """Note that the step was made."""
        for name, value in self._named(loss, norm).items():
            self.values[name] = [*self.values[name], value][-self.settings.window :]
        self.in_a_row = 0

    def skip(self, step: int, reason: str, samples: list[str], write: bool) -> None:
        """Note that the step was left out; one process (`write`) records it for good."""
        self.in_a_row += 1
        if step in self.records:
            return
        self.records[step] = {"step": step, "reason": reason, "samples": samples}
        if write:
            with self.path.open("a") as file:
                file.write(json.dumps(self.records[step]) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def before(self, step: int) -> int:
        """Steps left out before `step`."""
        return sum(number < step for number in self.records)

    def lines(self) -> str:
        """All records as JSON lines, in order of steps."""
        return "".join(json.dumps(self.records[step]) + "\n" for step in sorted(self.records))

    def state(self) -> dict[str, Any]:
        return {"values": self.values, "in_a_row": self.in_a_row, "records": list(self.records.values())}

    def restore(self, state: dict[str, Any]) -> None:
        self.values, self.in_a_row = state["values"], state["in_a_row"]
        self._remember(state["records"])

    def _remember(self, records: list[dict[str, Any]]) -> None:
        self.records |= {record["step"]: record for record in records}

    def _score(self, name: str, value: float) -> float:
        past = self.values[name]
        if not math.isfinite(value):
            return math.inf
        if len(past) < self.settings.min_history:
            return 0.0
        mean = statistics.fmean(past)
        return (value - mean) / max(statistics.pstdev(past), LEAST_DEVIATION * abs(mean), 1e-12)

    @staticmethod
    def _named(loss: float, norm: float) -> dict[str, float]:
        return {"loss": loss, "gradient norm": norm}
