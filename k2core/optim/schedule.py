"""Learning-rate schedules as pure functions of the step (K2 §2.4: warm-up, constant, cosine, linear anneal)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

Shape = Literal["constant", "cosine", "linear"]
Schedule = Callable[[int], float]


def make_schedule(shape: Shape, steps: int, start: float, end: float, warmup_steps: int = 0) -> Schedule:
    """Multiplier of the configured rates at each step 0 … `steps` - 1.

    From `start` to `end` in the given shape: the first step after warm-up has `start`, the last one `end`. The
    warm-up rises linearly and never gives 0: step 0 has `start / (warmup_steps + 1)`. "constant" stays at `start`.

    Raises:
        ValueError: the warm-up does not fit into the steps, or "constant" with two different ends.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into {steps} steps")
    if shape == "constant" and start != end:
        raise ValueError(f"a constant schedule cannot go from {start} to {end}; choose cosine or linear")

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return start * (step + 1) / (warmup_steps + 1)
        done = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
        weight = (1 + math.cos(math.pi * done)) / 2 if shape == "cosine" else 1 - done
        return end + (start - end) * weight

    return multiplier
