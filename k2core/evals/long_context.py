"""What a model makes of a long context, as a stage's figures.

| name | what | 95% interval (`/low`, `/high`) |
|---|---|---|
| `bits_per_byte_short[/DOMAIN]`, `…_long[/DOMAIN]` | held-out text in short and in long windows | none: fixed tokens |
| `nats_per_token/position_LOW-HIGH` | loss by position in the long window | none: see `nats_saved` |
| `nats_saved/position_LOW-HIGH` | less loss than another model on the same windows | bootstrap over windows |
| `needle/length_L/depth_D`, `needle/length_L` | share of needles found; over all depths | Wilson, over all depths |
| `copy_gain/distance_D` | nats per token saved where a passage recurs | bootstrap over passages |

Loss by position counts windows that one document fills, so that each bucket is of the same text; elsewhere late
positions would be those of the long documents alone.

Shapes: N tokens, K buckets of positions, W windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from k2core.data.rows.packing import position_buckets
from k2core.data.rows.shards import TokenShards
from k2core.evals.retrieval import Model, copy_gains, distance, needles_found
from k2core.figures.intervals import bootstrap, wilson
from k2core.stage import Metrics
from k2core.storage import StorageError
from k2core.training.heldout import Scored, figure_names, score_all, summary


@dataclass(frozen=True)
class LongContext:
    """What is measured, the same for each model: windows in tokens, samples per length (and depth, for needles)."""

    tokens: Path
    short: int
    long: int
    lengths: Sequence[int]
    needles: int
    passages: int
    seed: int

    def measure(self, model: Model) -> tuple[Metrics, np.ndarray]:
        """The figures of `model`, and its losses per window and bucket of positions (windows, buckets), nats per token.

        Raises:
            StorageError: there is not enough held-out text, or no document as long as the long window.
        """
        figures: Metrics = {}
        for name, context in (("short", self.short), ("long", self.long)):
            scored = score_all(model, self.tokens, context=context)
            figures |= figure_names(summary(scored), f"bits_per_byte_{name}")
        nats_WK = _by_position(scored, self.long)
        if not len(nats_WK):
            raise StorageError(
                f"{self.tokens}: no held-out document has {self.long:,} tokens; raise tokenize.max_heldout_tokens or "
                "hold out longer documents"
            )
        figures |= dict(zip(self._buckets("nats_per_token"), nats_WK.mean(axis=0).tolist(), strict=True))
        shards = TokenShards(self.tokens)
        for length in self.lengths:
            found = needles_found(model, shards, length=length, samples=self.needles, seed=self.seed)
            name = f"needle/length_{length}"
            figures |= {f"{name}/depth_{depth}": count / self.needles for depth, count in found.items()}
            passed, total = sum(found.values()), self.needles * len(found)
            figures |= _interval(name, passed / total, wilson(passed, total))
        for length in self.lengths:
            gains = copy_gains(model, shards, length=length, samples=self.passages, seed=self.seed)
            name = f"copy_gain/distance_{distance(length)}"
            figures |= _interval(name, fmean(gains), bootstrap([gains], self.seed))
        return figures, nats_WK

    def saved(self, before_WK: np.ndarray, after_WK: np.ndarray) -> Metrics:
        """By how much `after` loses less than `before` on the same windows, by position, nats per token."""
        figures: Metrics = {}
        for name, saved_W in zip(self._buckets("nats_saved"), (before_WK - after_WK).T.tolist(), strict=True):
            figures |= _interval(name, fmean(saved_W), bootstrap([saved_W], self.seed))
        return figures

    def _buckets(self, name: str) -> list[str]:
        return [f"{name}/position_{low}-{high}" for low, high in position_buckets(self.long)]


def _by_position(scored: dict[str, Scored], context: int) -> np.ndarray:
    """Mean loss (windows, buckets) of the windows that one document fills."""
    rows = []
    for item in scored.values():
        starts = np.flatnonzero(item.positions_N == 0)
        lengths = np.diff(starts, append=len(item.positions_N))
        rows += [item.nats_N[start : start + context] for start in starts[lengths == context]]
    return np.array([[row[low:high].mean() for low, high in position_buckets(context)] for row in rows])


def _interval(name: str, value: float, bounds: tuple[float, float]) -> Metrics:
    return {name: value, f"{name}/low": bounds[0], f"{name}/high": bounds[1]}
