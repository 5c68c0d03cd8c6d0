"""The training loop: exact resume, spikes, accumulation. Real micro models throughout."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from k2core.data.rows.batch import IGNORE, Batch
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.learning_rate import Rates, Schedule
from k2core.optim.muonclip import MuonClip
from k2core.optim.optimizer import Optimizer
from k2core.stage import Job, StageError
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.learner import Learner, TrainerState
from k2core.training.setting import Setting
from k2core.training.settings import TrainingSettings
from k2core.training.spikes import SpikeConfig
from k2core.training.trainer import Plan, TrainResult, train

STEPS, VOCAB = 11, 32
MODEL = ModelConfig(
    vocab_size=VOCAB, hidden_size=16, intermediate_size=32, moe_intermediate_size=8, num_hidden_layers=2,
    num_attention_heads=2, attention="mla",
    q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4,
    n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, routed_scaling_factor=1.0,
    rope_theta=1e4, rope_scaling=None, max_position_embeddings=32, rms_norm_eps=1e-6, initializer_range=0.05,
)  # fmt: skip
OPTIMIZER = MuonClipConfig(
    muon_lr=0.01, adamw_lr=0.02, momentum=0.95, weight_decay=0.1, adamw_beta1=0.9, adamw_beta2=0.95, adamw_eps=1e-8,
    max_grad_norm=1.0, qk_clip_threshold=0.05, router_bias_rate=0.01,
)  # fmt: skip


SPIKES = SpikeConfig(window=16, min_history=16, deviations=6.0, max_in_a_row=3)
CHECKPOINT = CheckpointConfig(keep=2, permanent_every=0, mirror="", resume_from="", accept=[])
CONSTANT = Schedule(kind="constant", lr_start=1.0, lr_end=1.0, warmup_steps=0)
BEFORE = TrainerState(step=0, tokens_seen=100, documents={}, lr_scale=None)


class Settings(TrainingSettings):
    """Settings of a training of so many steps."""

    steps: int
    schedule: Schedule

    def rates(self) -> Rates:
        return self.schedule.over(self.steps)


def settings(steps: int, **changes) -> Settings:
    values = {"log_every": 3, "checkpoint_every": 4, "schedule": CONSTANT, **changes}
    return Settings(steps=steps, **values)


class Killed(BaseException):
    """In place of SIGKILL: nothing of the trainer may catch it."""


class Source:
    """Counting sequences; dies at step `kill_at`, gets SIGTERM at `stop_at`; random targets at the `poisoned` steps."""

    batch_rows = 4

    def __init__(self, kill_at: int | None = None, stop_at: int | None = None, poisoned: tuple[int, ...] = ()) -> None:
        self.kill_at, self.stop_at, self.poisoned, self.asked = kill_at, stop_at, poisoned, []

    def batch(self, step: int, rows: range = range(4)) -> Batch:
        self.asked.append(step)
        if step == self.kill_at:
            raise Killed
        if step == self.stop_at and len(self.asked) > 1:  # not at the look at batch 0
            os.kill(os.getpid(), signal.SIGTERM)
        generator = torch.Generator().manual_seed(step)
        start = torch.randint(0, VOCAB, (4, 1), generator=generator)
        tokens = (start + torch.arange(13)) % VOCAB
        if step in self.poisoned:
            tokens = torch.randint(0, VOCAB, (4, 13), generator=generator)
        targets = tokens[:, 1:].clone()
        targets[0, :4] = IGNORE
        positions = torch.arange(12).expand(4, -1)
        batch = (tokens[:, :-1], targets, positions, torch.zeros_like(positions))
        return Batch(*(part[rows.start : rows.stop] for part in batch))

    def samples(self, step: int) -> list[str]:
        return [f"counting/{step}"]


class NaNModel(Transformer):
    """Its loss is NaN at the `bad` steps."""

    bad: tuple[int, ...] = ()
    forwards = 0

    def forward(self, *inputs, **named):
        loss = super().forward(*inputs, **named)
        step, self.forwards = self.forwards, self.forwards + 1
        return loss * torch.nan if step in self.bad else loss


def build(cls: type[Transformer] = Transformer) -> tuple[Transformer, MuonClip]:
    torch.manual_seed(0)
    model = cls(MODEL)
    return model, MuonClip(model, OPTIMIZER)


def run(
    folder: Path, source: Source, model: Transformer, optimizer: Optimizer, steps: int = STEPS,
    checkpoint_every: int = 4, spikes: SpikeConfig = SPIKES, checkpoint: CheckpointConfig = CHECKPOINT,
    micro_batch_tokens: int | None = None,
) -> TrainResult:  # fmt: skip
    schedule = Schedule(kind="cosine", lr_start=1.0, lr_end=0.1, warmup_steps=min(2, steps - 1))
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    return train(
        Learner(model, optimizer, BEFORE),
        Plan(source, settings(steps, schedule=schedule, checkpoint_every=checkpoint_every)),
        Setting(Job("test", folder / "scratch", None), spikes, checkpoint, micro_batch_tokens=micro_batch_tokens),
        folder / "plot.csv",
    )


def outcome(folder: Path, model: Transformer, optimizer: MuonClip) -> tuple[bytes, dict[str, torch.Tensor]]:
    state = {**model.state_dict(), **{f"optimizer/{k}": v for k, v in optimizer.state_dict().items()}}
    return (folder / "plot.csv").read_bytes(), {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, torch.Tensor], TrainResult]:
    folder = tmp_path_factory.mktemp("whole")
    model, optimizer = build()
    result = run(folder, Source(), model, optimizer)
    return *outcome(folder, model, optimizer), result


def test_training_learns_clips_and_balances(whole) -> None:
    csv, state, result = whole
    losses = [row["train/loss"] for row in result.rows]
    assert losses[-1] < losses[0]
    assert [row["step"] for row in result.rows] == [3, 6, 9, 11]
    assert result.tokens_seen == 100 + STEPS * 44 == result.rows[-1]["train/tokens_seen"]
    assert any(row["qk_clip/heads_clipped"] > 0 for row in result.rows)
    assert any(t.abs().sum() > 0 for name, t in state.items() if name.endswith("e_score_correction_bias"))
    assert csv.decode().splitlines()[0].startswith("step,") and "throughput" not in csv.decode()


@pytest.mark.parametrize("kill_at", [1, 3, 4, 7, 8, 10])
def test_killed_and_continued_equals_uninterrupted(whole, tmp_path: Path, kill_at: int) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Source(kill_at), *build())
    assert not (tmp_path / "plot.csv").exists()
    model, optimizer = build()
    source = Source()
    assert run(tmp_path, source, model, optimizer) == whole[2]
    assert source.asked[1] == kill_at // 4 * 4  # from the last checkpoint on, after the look at batch 0
    assert_equal(outcome(tmp_path, model, optimizer), whole)


def test_killed_twice_and_after_the_end(whole, tmp_path: Path) -> None:
    for kill_at in (5, 9):
        with pytest.raises(Killed):
            run(tmp_path, Source(kill_at), *build())
    for _ in range(2):
        model, optimizer = build()
        run(tmp_path, Source(), model, optimizer)
        assert_equal(outcome(tmp_path, model, optimizer), whole)


@pytest.mark.parametrize("stop_at", [0, 1, 4, 6, 10])
def test_sigterm_loses_no_step(whole, tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(SystemExit, match="143"):
        run(tmp_path, Source(stop_at=stop_at), *build())
    model, optimizer = build()
    source = Source()
    run(tmp_path, source, model, optimizer)
    assert source.asked[1] == stop_at  # the step that was about to be made, nothing again
    assert_equal(outcome(tmp_path, model, optimizer), whole)


def test_training_draws_no_random_number(tmp_path: Path) -> None:
    model, optimizer = build()
    before = torch.get_rng_state()
    run(tmp_path, Source(), model, optimizer)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rows", [1, 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(whole, tmp_path: Path, rows: int) -> None:
    model, optimizer = build()
    result = run(tmp_path, Source(), model, optimizer, micro_batch_tokens=12 * rows)
    for row, wanted in zip(result.rows, whole[2].rows, strict=True):
        assert row["train/loss"] == pytest.approx(wanted["train/loss"], rel=1e-5)
        assert row["qk_clip/max_logit"] == pytest.approx(wanted["qk_clip/max_logit"], rel=1e-4)
    for name, tensor in outcome(tmp_path, model, optimizer)[1].items():
        assert torch.allclose(tensor, whole[1][name], atol=2e-4), name
    with pytest.raises(StageError, match=r"not a multiple of the 3 rows that parallel\.micro_batch_tokens 36"):
        run(tmp_path / "bad", Source(), *build(), micro_batch_tokens=36)


def test_a_bad_step_leaves_no_trace_and_is_counted(tmp_path: Path) -> None:
    model, optimizer = build(NaNModel)
    model.bad = (0,)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StageError, match="every step was left out"):
        run(tmp_path / "one", Source(), model, optimizer, steps=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model, optimizer = build(NaNModel)
    model.bad = (4, 5, 8)
    result = run(tmp_path / "more", Source(), model, optimizer)
    assert result.skipped == 3 and [row["spike/skipped"] for row in result.rows] == [0, 2, 3, 3]
    records = [json.loads(line) for line in result.detail["skipped.jsonl"].splitlines()]
    assert [record["step"] for record in records] == [4, 5, 8]
    assert records[0] == {"step": 4, "reason": "its loss is nan", "samples": ["counting/4"]}
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


SENSITIVE = {"spikes": SpikeConfig(window=8, min_history=4, deviations=4.0, max_in_a_row=2), "steps": 20}


def test_a_poisoned_batch_is_left_out_before_it_touches_anything(tmp_path: Path) -> None:
    """Its content does not matter: a run with other poison, and one killed after it, end in the same weights."""
    outcomes = []
    for name, bad, kill in (("one", NaNModel, None), ("other", Transformer, None), ("killed", Transformer, 15)):
        source = Source(poisoned=() if bad is NaNModel else (13,))
        if kill:
            with pytest.raises(Killed):
                run(tmp_path / name, Source(kill_at=kill, poisoned=(13,)), *build(), **SENSITIVE)
        model, optimizer = build(bad)
        if bad is NaNModel:
            model.bad = (13,)
        result = run(tmp_path / name, source, model, optimizer, **SENSITIVE)
        assert result.skipped == 1 and json.loads(result.detail["skipped.jsonl"])["step"] == 13
        outcomes.append(outcome(tmp_path / name, model, optimizer))
    reason = json.loads(result.detail["skipped.jsonl"])["reason"]
    assert "deviations above the mean" in reason
    assert_equal(outcomes[1], outcomes[0])
    assert_equal(outcomes[2], outcomes[0])


def test_what_was_left_out_stays_out_after_a_kill_even_if_it_would_pass_now(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Source(kill_at=14, poisoned=(13,)), *build(), **SENSITIVE)
    model, optimizer = build()
    result = run(tmp_path, Source(), model, optimizer, **SENSITIVE)  # step 13 is a sound batch this time
    assert [json.loads(line)["step"] for line in result.detail["skipped.jsonl"].splitlines()] == [13]


def test_three_bad_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    model, optimizer = build(NaNModel)
    model.bad = (3, 4, 5)
    with pytest.raises(StageError, match="3 steps in a row were left out, the last is step 5: its loss is nan"):
        run(tmp_path, Source(), model, optimizer)
    assert len((tmp_path / "scratch" / "skipped.jsonl").read_text().splitlines()) == 3
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def assert_equal(found, wanted) -> None:
    assert found[0] == wanted[0]
    assert found[1].keys() == wanted[1].keys()
    for name, tensor in found[1].items():
        assert torch.equal(tensor, wanted[1][name]), name
