"""Learning rates over a training: warm-up, then one of the shapes (K2 §2.5: constant, cosine decay, linear anneal).

A new shape is one more function with `@shape`; its name is then a value of a recipe's `schedule.kind`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from k2core.recipe import Section

Rates = Callable[[int], float]
"""Step 0 … steps - 1 → multiplier of the optimiser's configured rates."""

SHAPES: dict[str, Callable[[float], float]] = {}
"""Name → weight of the start against the end, given the share of the way done (0 to 1)."""


def shape(function: Callable[[float], float]) -> Callable[[float], float]:
    """Register a shape under its function's name."""
    SHAPES[function.__name__] = function
    return function


@shape
def constant(done: float) -> float:
    return 1.0


@shape
def linear(done: float) -> float:
    return 1 - done


@shape
def cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


if TYPE_CHECKING:  # the names are known only at run time
    Kind = str
else:
    Kind = Literal[tuple(SHAPES)]


def make_rates(kind: Kind, steps: int, start: float, end: float, warmup_steps: int = 0) -> Rates:
    """The way from `start` to `end` in the given shape: the first step after warm-up has `start`, the last one `end`.

    The warm-up rises linearly and never gives 0: step 0 has `start / (warmup_steps + 1)`.

    Raises:
        ValueError: the warm-up does not fit into the steps, or "constant" with two different ends.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into {steps} steps")
    if kind == "constant" and start != end:
        raise ValueError(f"a constant schedule cannot go from {start} to {end}; choose cosine or linear")

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return start * (step + 1) / (warmup_steps + 1)
        done = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
        return end + (start - end) * SHAPES[kind](done)

    return multiplier


class Schedule(Section):
    """How the learning rate changes over one phase, as multipliers of the optimiser's rates."""

    kind: Kind = Field(description="shape of the way from lr_start to lr_end")
    lr_start: float = Field(gt=0, description="multiplier after warm-up; equal to the previous phase's lr_end")
    lr_end: float = Field(gt=0, description="multiplier at the last step")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "constant" and self.lr_start != self.lr_end:
            raise ValueError(f"a constant schedule ends where it starts, but lr_end is {self.lr_end}; make them equal")
        return self

    def over(self, steps: int) -> Rates:
        """The rates of a phase of `steps` steps."""
        return make_rates(self.kind, steps, self.lr_start, self.lr_end, self.warmup_steps)
