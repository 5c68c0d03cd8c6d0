"""Each head's and each expert's figures over a training, which single numbers hide, as two small CSV files.

| file | columns |
|---|---|
| `attention.csv` | step, layer, head, max_logit (largest), gamma (smallest) since the row before |
| `experts.csv` | step, layer, expert, load (share of its layer's routed choices since the row before), bias (now) |

`max_logit` is what the optimiser knew. A backend that between logged steps knows only what exceeds τ
(`ops/cuda/flash.py`) gives the interval's largest logit if that exceeds τ, else the logged step's; the cell is empty if
that step was left out.

They grow by layers × (heads + experts) per logged step and go to MLflow as artifacts; live metrics have a fixed
number of names.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from k2core.model.transformer import Transformer

ATTENTION, EXPERTS = "attention.csv", "experts.csv"
LEAST = -sys.float_info.max
"""Stands for -inf, which JSON has no number for."""


def _headers() -> dict[str, list[str]]:
    return {ATTENTION: ["step,layer,head,max_logit,gamma"], EXPERTS: ["step,layer,expert,load,bias"]}


@dataclass
class Detail:
    """Figures gathered over intervals of steps, like `History`; all of it goes through JSON unchanged."""

    lines: dict[str, list[str]] = field(default_factory=_headers)
    _interval: dict[str, Any] = field(default_factory=dict)

    def add(self, seen: dict[str, Tensor]) -> None:
        """What the optimiser saw in the step that it just made (`Optimizer.detail`)."""
        import torch

        new = {name: tensor.double().cpu() for name, tensor in seen.items()}
        merge: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "max_logit": torch.maximum,
            "gamma": torch.minimum,
            "load": torch.add,
            "bias": lambda _, now: now,
        }
        old = self._interval
        self._interval = {name: merge[name](old[name], new[name]) for name in new} if old else new

    def close(self, step: int, model: Transformer) -> None:
        """End the interval at `step`; one without a step leaves no lines."""
        if not self._interval:
            return
        seen = {name: tensor.tolist() for name, tensor in self._interval.items()}
        for layer, heads in enumerate(zip(seen["max_logit"], seen["gamma"], strict=True)):
            for head, (logit, gamma) in enumerate(zip(*heads, strict=True)):
                known = f"{logit:.6g}" if math.isfinite(logit) else ""
                self.lines[ATTENTION].append(f"{step},{layer},{head},{known},{gamma:.6g}")
        first = model.config.first_k_dense_replace
        for layer, (load, biases) in enumerate(zip(seen["load"], seen["bias"], strict=True), start=first):
            total = sum(load)
            for expert, (choices, bias) in enumerate(zip(load, biases, strict=True)):
                self.lines[EXPERTS].append(f"{step},{layer},{expert},{choices / total:.6g},{bias:.6g}")
        self._interval = {}

    def state(self) -> dict[str, Any]:
        interval = {name: tensor.nan_to_num(neginf=LEAST).tolist() for name, tensor in self._interval.items()}
        return {"lines": self.lines, "interval": interval}

    def restore(self, state: dict[str, Any]) -> None:
        import torch

        self.lines = state["lines"]
        interval = {name: torch.tensor(v, dtype=torch.float64) for name, v in state["interval"].items()}
        self._interval = {name: tensor.masked_fill(tensor == LEAST, -math.inf) for name, tensor in interval.items()}

    def files(self) -> dict[str, str]:
        """Name → content; a dense model has no `experts.csv`."""
        return {name: "\n".join(lines) + "\n" for name, lines in self.lines.items() if len(lines) > 1}
