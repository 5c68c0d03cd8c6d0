"""The settings that every training has."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from pydantic import Field

from k2core.optim.learning_rate import Rates
from k2core.recipe import Section


class TrainingSettings(Section):
    """What every training's section has: a phase's, fine-tuning's, RL's."""

    log_every: int = Field(ge=1, description="steps between rows of the plot")
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints for resuming")

    if TYPE_CHECKING:  # a field in one section, made of other fields in another

        @property
        def steps(self) -> int: ...

    @abstractmethod
    def rates(self) -> Rates:
        """The multiplier of the optimiser's learning rates at each step."""
