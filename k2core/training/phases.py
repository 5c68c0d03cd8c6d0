"""The settings of pre-training phases: how much, at what rate, of what. `phase.py` runs one."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from k2core.data.mixture.selection import Select
from k2core.model.config import YarnConfig
from k2core.optim.learning_rate import Rates, Schedule
from k2core.training.settings import TrainingSettings


class Phase(TrainingSettings):
    """One stretch of training with one mixture, one context and one schedule (K2 §2.5)."""

    tokens: int = Field(ge=1, description="length of the phase in tokens, rounded to whole batches")
    batch_tokens: int = Field(ge=1, description="tokens per step")
    context_length: int = Field(ge=2, description="tokens per row; batch_tokens must be a multiple of it")
    schedule: Schedule = Field(description="learning rate over the phase")
    mixture: dict[str, float] = Field(min_length=1, description="share of rows by domain; need not sum to 1")
    select: Select = Field(description="which documents of these domains")
    heldout_every: int = Field(
        ge=1, description="steps between evaluations of held-out bits per byte; the last step is always evaluated"
    )
    heldout_context: int = Field(ge=2, description="window for bits per byte; the same in all phases to compare them")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_tokens % self.context_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} is not a multiple of context_length {self.context_length}"
            )
        if self.tokens < self.batch_tokens:
            raise ValueError(f"tokens {self.tokens} is less than one batch of {self.batch_tokens}")
        if self.schedule.warmup_steps >= self.steps:
            raise ValueError(f"schedule.warmup_steps {self.schedule.warmup_steps} does not fit into {self.steps} steps")
        if min(self.mixture.values()) < 0 or not any(self.mixture.values()):
            raise ValueError(f"mixture weights must not be negative, and one must be positive: {self.mixture}")
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of the phase."""
        return round(self.tokens / self.batch_tokens)

    def rates(self) -> Rates:
        return self.schedule.over(self.steps)


class Extension(Phase):
    """A phase at the longer context, and the extension itself; `heldout_context` is the short window."""

    rope_scaling: YarnConfig = Field(description="YaRN: factor and the context that the model was trained with")
    control: bool = Field(description="train a second model on the same rows without YaRN; doubles the training")
    lengths: list[Annotated[int, Field(ge=96)]] = Field(
        min_length=1, description="row lengths at which needles and repeated passages are looked for, in tokens"
    )
    retrieval_samples: int = Field(ge=1, description="needles per length and depth")
    copy_samples: int = Field(ge=1, description="repeated passages per length")
