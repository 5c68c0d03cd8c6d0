"""Fine-tuning on dialogues: the settings and the call that SFT and the critic share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from k2core.optim.learning_rate import Rates, make_rates
from k2core.optim.optimizer import OptimizerConfig
from k2core.training.settings import TrainingSettings

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer
    from k2core.training.dialogues import DialogueSource
    from k2core.training.setting import Setting
    from k2core.training.trainer import TrainResult


class FineTuning(TrainingSettings):
    """How long and how fast a model is tuned on packed dialogues."""

    context: int = Field(ge=32, description="tokens per packed row; longer dialogues are left out and counted")
    batch_rows: int = Field(ge=1, description="rows per step")
    steps: int = Field(ge=1, description="optimiser steps")
    muon_lr: float = Field(gt=0, description="Muon's learning rate at its peak")
    adamw_lr: float = Field(gt=0, description="AdamW's learning rate at its peak (embeddings, head, norms)")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    final_lr_share: float = Field(ge=0, le=1, description="learning rate at the end, as a share of the peak")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"a warm-up of {self.warmup_steps} steps does not fit into {self.steps} steps; lower warmup_steps or "
                "raise steps"
            )
        return self

    def rates(self) -> Rates:
        """Linear from the peak to `final_lr_share` of it, after a linear warm-up."""
        return make_rates("linear", self.steps, 1.0, self.final_lr_share, self.warmup_steps)

    def epochs(self, source: DialogueSource) -> float:
        """How often each row is seen."""
        return self.steps * self.batch_rows / len(source)


def fine_tune(
    model: Transformer, source: DialogueSource, settings: FineTuning, optimizer: OptimizerConfig, setting: Setting,
    plot: Path,
) -> TrainResult:  # fmt: skip
    """Tune `model` in place with a fresh optimiser at the settings' rates; resumes from the job's scratch.

    Raises:
        StageError: too many steps in a row were left out.
    """
    from k2core.training.learner import Learner
    from k2core.training.trainer import Plan, train

    fresh = optimizer.with_rates(settings.muon_lr, settings.adamw_lr).build(model)
    return train(Learner(model, fresh), Plan(source, settings), setting, plot)
