"""Learning-rate schedules of phases and of fine-tuning, as parameters (K2 §2.5: warm-up, stable, decay)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from k2core.optim.schedule import make_schedule
from k2core.recipe import Section
from k2core.stage import StageError


class Schedule(Section):
    """How the learning rate goes over one phase, as multipliers of the optimiser's rates."""

    kind: Literal["constant", "linear", "cosine"] = Field(description="shape of the way from lr_start to lr_end")
    lr_start: float = Field(gt=0, description="multiplier after warm-up; equal to the phase before's lr_end")
    lr_end: float = Field(gt=0, description="multiplier at the last step")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "constant" and self.lr_start != self.lr_end:
            raise ValueError(f"a constant schedule ends where it starts, but lr_end is {self.lr_end}; make them equal")
        return self

    def over(self, steps: int) -> Callable[[int], float]:
        """Step 0 … steps-1 → multiplier."""
        return make_schedule(self.kind, steps, self.lr_start, self.lr_end, self.warmup_steps)


def linear_decay(steps: int, warmup_steps: int, final_share: float) -> Callable[[int], float]:
    """From 1 to `final_share` after a linear warm-up: what fine-tuning uses.

    Raises:
        StageError: the warm-up is as long as the training.
    """
    try:
        return make_schedule("linear", steps, 1.0, final_share, warmup_steps)
    except ValueError as error:
        raise StageError(f"{error}; lower warmup_steps or raise steps") from None
