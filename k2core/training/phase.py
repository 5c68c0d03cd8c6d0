"""Runs one pre-training phase, and returns what the next one starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2core.stage import Metrics, StageError
from k2core.storage import write_text
from k2core.training.learner import Learner, TrainerState
from k2core.training.phases import Phase

if TYPE_CHECKING:
    from k2core.training.setting import Setting


def run_phase(
    phase: Phase, learner: Learner, setting: Setting, *, tokens: Path, seed: int, plot: Path, out: Path
) -> tuple[TrainerState, Metrics]:
    """Train `learner` through `phase`; returns the state to hand on, and the figures of the training itself.

    The figures of heads and experts and the steps left out go to files in `out`, and to MLflow.

    Args:
        tokens: the folder of the token shards.

    Raises:
        StageError: the learning rate would jump at the seam, the context is longer than the model's, or the shards
            are of another vocabulary.
    """
    from k2core.data.rows.loader import PhaseSource
    from k2core.data.rows.shards import TokenShards
    from k2core.training.heldout import COLUMN, bits_per_byte, figure_names, figures_of
    from k2core.training.trainer import Plan, train

    model, before, job, shards = learner.model, learner.before, setting.job, TokenShards(tokens)
    if before.lr_scale is not None and abs(phase.schedule.lr_start - before.lr_scale) > 1e-6 * before.lr_scale:
        raise StageError(
            f"the previous phase ended at lr multiplier {before.lr_scale:g} but schedule.lr_start is "
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
        measured = bits_per_byte(setting.ranks.whole_rows(model), tokens, context=phase.heldout_context)
        return figure_names(measured, COLUMN)

    result = train(learner, Plan(source, phase, validate, phase.heldout_every), setting, plot)
    for name, content in result.detail.items():
        write_text(out / name, content)
    after = TrainerState(
        step=before.step + phase.steps,
        tokens_seen=result.tokens_seen,
        documents=source.cursor,
        lr_scale=phase.schedule.lr_end,
    )
    figures = {**figures_of(result.rows[-1]), **result.figures(), "train/steps": float(phase.steps)}
    return after, {**figures, **source.figures()}


def check_vocabulary(found: int, wanted: int, where: Path) -> None:
    """Raise a StageError unless tokenizer or shards at `where` have the vocabulary of section `model`."""
    if found != wanted:
        raise StageError(
            f"{where} has a vocabulary of {found}, section model says vocab_size {wanted}; "
            f"set model.vocab_size and train_tokenizer.vocab_size to the same number"
        )
