"""A pre-training phase: how much, at what rate, of what; and the state that the next phase goes on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError
from k2core.storage import StorageError, write_json, write_text
from k2core.training.phases import Phase

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer
    from k2core.optim.muonclip import MuonClip
    from k2core.training.checkpoint import CheckpointConfig
    from k2core.training.ranks import Ranks
    from k2core.training.spikes import SpikeConfig

STATE = "trainer.json"


class TrainerState(Section):
    """What a phase hands on beside weights and optimiser state (`trainer.json`)."""

    step: int = Field(ge=0, description="optimiser steps so far")
    tokens_seen: int = Field(ge=0, description="target tokens so far")
    documents: dict[str, int] = Field(description="training documents taken or passed over, by domain")
    lr_scale: float | None = Field(description="multiplier of the learning rate at which the phase ended")

    @classmethod
    def fresh(cls) -> TrainerState:
        return cls(step=0, tokens_seen=0, documents={}, lr_scale=None)

    @classmethod
    def load(cls, folder: Path) -> TrainerState:
        """Read `trainer.json` of a finished phase.

        Raises:
            StorageError: it is missing or not what a phase writes.
        """
        path = folder / STATE
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except FileNotFoundError:
            raise StorageError(f"{path}: missing; {folder} was not made by a pre-training phase") from None
        except ValueError as error:
            raise StorageError(f"{path}: not a trainer state ({error}); run the phase that made it again") from None

    def save(self, folder: Path) -> None:
        write_json(folder / STATE, self.model_dump())


def run_phase(
    phase: Phase,
    model: Transformer,
    optimizer: MuonClip,
    before: TrainerState,
    *,
    tokens: Path,
    seed: int,
    job: Job,
    plot: Path,
    out: Path,
    spikes: SpikeConfig,
    checkpoint: CheckpointConfig,
    ranks: Ranks | None = None,
    micro_batch_tokens: int | None = None,
) -> tuple[TrainerState, Metrics]:
    """Train `model` through `phase`; the state to hand on, and the figures of the training itself.

    The detail of heads and experts and the steps left out go to files in `out`, and to MLflow.

    Raises:
        StageError: the learning rate would jump at the seam, the context is longer than the model's, or the shards
            are of another vocabulary.
    """
    from k2core.data.rows.loader import PhaseSource
    from k2core.data.rows.shards import TokenShards
    from k2core.training.heldout import bits_per_byte, figure_names
    from k2core.training.ranks import Ranks
    from k2core.training.trainer import train

    shards, ranks = TokenShards(tokens), ranks or Ranks()
    if before.lr_scale is not None and abs(phase.schedule.lr_start - before.lr_scale) > 1e-6 * before.lr_scale:
        raise StageError(
            f"the phase before ended at lr multiplier {before.lr_scale:g} but schedule.lr_start is "
            f"{phase.schedule.lr_start:g}; set it to {before.lr_scale:g}, a jump would undo what annealing gained"
        )
    if phase.context_length > model.config.max_position_embeddings:
        raise StageError(
            f"context_length {phase.context_length} is beyond the model's max_position_embeddings "
            f"{model.config.max_position_embeddings}; raise it in section model or shorten the rows"
        )
    check_vocabulary(shards.vocab_size, model.config.vocab_size, tokens)
    job.fingerprint["tokenizer"] = shards.manifest["tokenizer"]
    source = PhaseSource(
        shards, weights=phase.mixture, steps=phase.steps, batch_rows=phase.batch_tokens // phase.context_length,
        context=phase.context_length, seed=seed, cursor=before.documents, select=phase.select,
    )  # fmt: skip

    def validate() -> Metrics:
        return figure_names(bits_per_byte(ranks.whole_rows(model), tokens, context=phase.heldout_context), "val/bpb")

    result = train(
        model, optimizer, source, steps=phase.steps, schedule=phase.schedule.over(phase.steps), job=job, plot=plot,
        log_every=phase.log_every, checkpoint_every=phase.checkpoint_every, spikes=spikes, checkpoint=checkpoint,
        ranks=ranks, micro_batch_tokens=micro_batch_tokens, tokens_before=before.tokens_seen, validate=validate,
        validate_every=phase.heldout_every,
    )  # fmt: skip
    for name, content in result.detail.items():
        write_text(out / name, content)
        job.artifact(out / name)
    after = TrainerState(
        step=before.step + phase.steps,
        tokens_seen=result.tokens_seen,
        documents=source.cursor,
        lr_scale=phase.schedule.lr_end,
    )
    heldout = {
        name.replace("val/bpb", "heldout/bits_per_byte"): value
        for name, value in result.rows[-1].items()
        if name.startswith("val/bpb")
    }
    return after, {**heldout, **result.figures(), "train/steps": float(phase.steps), **source.figures()}


def check_vocabulary(found: int, wanted: int, where: Path) -> None:
    """Raise a StageError unless tokenizer or shards at `where` have the vocabulary of section `model`."""
    if found != wanted:
        raise StageError(
            f"{where} has a vocabulary of {found}, section model says vocab_size {wanted}; "
            f"set model.vocab_size and train_tokenizer.vocab_size to the same number"
        )
