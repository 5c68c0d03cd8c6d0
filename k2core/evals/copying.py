"""How much a model copies: the gain on a passage that occurred earlier in its row, by distance.

| name | what | 95% interval (`/low`, `/high`) |
|---|---|---|
| `copying/text/distance_D` | nats per token saved on a passage of held-out text | bootstrap over passages |
| `copying/random/distance_D` | the same on passages of random tokens, which only copying can foresee | the same |

Without copying, the arguments of tool calls cannot be right: their values are new each time.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from k2core.data.rows.shards import TokenShards
from k2core.evals.retrieval import PASSAGE, Model, copy_gains, distance
from k2core.figures.intervals import bootstrap
from k2core.stage import Metrics

PASSAGES = 32
"""Passages per distance."""


def copying(model: Model, tokens: Path, *, context: int, seed: int) -> Metrics:
    """The figures of `model` at distances of 64 tokens and as far as a row of `context` tokens reaches.

    Raises:
        StorageError: there is not enough held-out text.
    """
    shards = TokenShards(tokens)
    figures: Metrics = {}
    for length in sorted({min(context, 4 * PASSAGE), context}):
        if length < 3 * PASSAGE:
            continue
        for name, random_tokens in (("text", False), ("random", True)):
            gains = copy_gains(model, shards, length=length, samples=PASSAGES, seed=seed, random_tokens=random_tokens)
            low, high = bootstrap([gains], seed)
            key = f"copying/{name}/distance_{distance(length)}"
            figures |= {key: fmean(gains), f"{key}/low": low, f"{key}/high": high}
    return figures
