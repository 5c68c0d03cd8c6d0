"""Fine-tuning on dialogues: the settings and the call that SFT and the critic share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from k2core.optim.config import MuonClipConfig
from k2core.optim.learning_rate import Rates, make_rates
from k2core.recipe import Section
from k2core.stage import Job, StageError

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer
    from k2core.training.checkpoint import CheckpointConfig
    from k2core.training.dialogues import DialogueSource
    from k2core.training.spikes import SpikeConfig
    from k2core.training.trainer import TrainResult


class FineTuning(Section):
    """How long and how fast a model is tuned on packed dialogues."""

    context: int = Field(ge=32, description="tokens a packed row; longer dialogues are left out and counted")
    batch_rows: int = Field(ge=1, description="rows a step")
    steps: int = Field(ge=1, description="optimiser steps")
    muon_lr: float = Field(gt=0, description="Muon's learning rate at its peak")
    adamw_lr: float = Field(gt=0, description="AdamW's learning rate at its peak (embeddings, head, norms)")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    final_lr_share: float = Field(ge=0, le=1, description="learning rate at the end, as a share of the peak")
    log_every: int = Field(ge=1, description="steps between rows of the plot")
    checkpoint_every: int = Field(ge=1, description="steps between checkpoints for resuming")

    def schedule(self) -> Rates:
        """Linear from the peak to `final_lr_share` of it, after a linear warm-up.

        Raises:
            StageError: the warm-up is as long as the training.
        """
        try:
            return make_rates("linear", self.steps, 1.0, self.final_lr_share, self.warmup_steps)
        except ValueError as error:
            raise StageError(f"{error}; lower warmup_steps or raise steps") from None

    def epochs(self, source: DialogueSource) -> float:
        """How often each row is seen."""
        return self.steps * self.batch_rows / len(source)


def fine_tune(
    model: Transformer, source: DialogueSource, settings: FineTuning, optimizer: MuonClipConfig, spikes: SpikeConfig,
    checkpoint: CheckpointConfig, job: Job, plot: Path,
) -> TrainResult:  # fmt: skip
    """Tune `model` in place with a fresh MuonClip at the settings' rates; resumes from `job.scratch`.

    Raises:
        StageError: the warm-up is as long as the training, or too many steps in a row were left out.
    """
    from k2core.optim.muonclip import MuonClip
    from k2core.training.trainer import train

    rates = {"muon_lr": settings.muon_lr, "adamw_lr": settings.adamw_lr}
    return train(
        model,
        MuonClip(model, optimizer.model_copy(update=rates)),
        source,
        steps=settings.steps,
        schedule=settings.schedule(),
        job=job,
        plot=plot,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        spikes=spikes,
        checkpoint=checkpoint,
    )
