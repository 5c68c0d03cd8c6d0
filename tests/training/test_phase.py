"""Phases: parameters that are checked, seams without jumps, counts that carry over."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError
from test_trainer import CHECKPOINT, SPIKES

from k2core.data.mixture.selection import EVERYTHING
from k2core.data.rows.shards import TokenizedDocument, write_shards
from k2core.optim.learning_rate import Schedule
from k2core.stage import Job, StageError
from k2core.storage import StorageError
from k2core.training.fine_tuning import FineTuning
from k2core.training.learner import Learner, TrainerState
from k2core.training.phase import check_vocabulary, run_phase
from k2core.training.phases import Phase
from k2core.training.setting import Setting

VALUES = {
    "tokens": 1000, "batch_tokens": 64, "context_length": 16, "mixture": {"web": 1.0}, "log_every": 1,
    "select": EVERYTHING, "checkpoint_every": 1, "heldout_every": 1, "heldout_context": 16,
    "schedule": {"kind": "constant", "lr_start": 1.0, "lr_end": 1.0, "warmup_steps": 0},
}  # fmt: skip
COSINE = {"kind": "cosine", "lr_start": 1.0, "lr_end": 0.1, "warmup_steps": 0}


def test_a_phase_counts_in_tokens() -> None:
    assert Phase(**VALUES).steps == 16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 60}, "not a multiple of context_length"),
        ({"tokens": 63}, "less than one batch"),
        ({"mixture": {"web": -1.0}}, "must not be negative"),
        ({"mixture": {"web": 0.0}}, "must not be negative"),
        ({"schedule": {**COSINE, "kind": "constant"}}, "ends where it starts"),
        ({"schedule": {**COSINE, "warmup_steps": 16}}, "does not fit into 16 steps"),
        ({"tokns": 3}, "tokns"),
    ],
)
def test_parameters_that_cannot_work_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Phase(**{**VALUES, **changes})


def test_chained_schedules_never_jump() -> None:
    phases = [
        Schedule(kind="constant", lr_start=1.0, lr_end=1.0, warmup_steps=5).over(50),
        Schedule(**COSINE).over(40),
        Schedule(kind="linear", lr_start=0.1, lr_end=0.035, warmup_steps=0).over(20),
    ]
    rates = [phase(step) for phase, steps in zip(phases, (50, 40, 20), strict=True) for step in range(steps)]
    assert rates[0] < rates[4] < rates[5] == 1.0 and rates[-1] == pytest.approx(0.035)
    assert max(abs(a - b) for a, b in pairwise(rates[5:])) < 0.05
    with pytest.raises(ValidationError, match="lower warmup_steps"):
        FineTuning(
            context=32, batch_rows=1, steps=5, muon_lr=0.1, adamw_lr=0.1, warmup_steps=5, final_lr_share=0.1,
            log_every=1, checkpoint_every=1,
        )  # fmt: skip


def attempt(folder: Path, *, vocab_size: int = 20, lr_scale: float | None = 1.0, longest: int = 16) -> None:
    write_shards(folder, [TokenizedDocument("train", "web", [1, 2], 2)], vocab_size=20, eos_id=9)
    model = SimpleNamespace(config=SimpleNamespace(vocab_size=vocab_size, max_position_embeddings=longest))
    state = TrainerState(step=0, tokens_seen=0, documents={}, lr_scale=lr_scale)
    learner, setting = Learner(model, None, state), Setting(Job("test", folder, None), SPIKES, CHECKPOINT)
    run_phase(Phase(**VALUES), learner, setting, tokens=folder, seed=0, plot=folder / "plot.csv", out=folder / "out")


def test_faults_at_the_seam_stop_before_training(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"lr_start is 1; set it to 0\.1"):
        attempt(tmp_path, lr_scale=0.1)
    with pytest.raises(StageError, match="beyond the model's max_position_embeddings 8"):
        attempt(tmp_path, longest=8)
    with pytest.raises(StageError, match="vocabulary of 20, section model says vocab_size 30"):
        attempt(tmp_path, vocab_size=30)
    with pytest.raises(StageError, match="same number"):
        check_vocabulary(4096, 2048, tmp_path)


def test_state_round_trip_and_faults(tmp_path: Path) -> None:
    state = TrainerState(step=3, tokens_seen=100, documents={"web": 7}, lr_scale=0.1)
    state.save(tmp_path)
    assert TrainerState.load(tmp_path) == state
    with pytest.raises(StorageError, match="was not made by a pre-training phase"):
        TrainerState.load(tmp_path / "other")
    (tmp_path / "trainer.json").write_text("{")
    with pytest.raises(StorageError, match="not a trainer state"):
        TrainerState.load(tmp_path)
