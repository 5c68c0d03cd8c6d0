"""The training loop: exact resume, spike safety, checkpoints that tear. Real micro models throughout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from k2core.corpus.batch import IGNORE, Batch
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.optim.config import MuonClipConfig
from k2core.optim.muonclip import MuonClip
from k2core.stage import Job, StageError
from k2core.training.schedule import Schedule
from k2core.training.trainer import TrainResult, train

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


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the trainer may catch it."""


class Source:
    """Counting sequences; dies at step `kill_at`."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.asked = kill_at, []

    def batch(self, step: int) -> Batch:
        self.asked.append(step)
        if step == self.kill_at:
            raise Killed
        generator = torch.Generator().manual_seed(step)
        start = torch.randint(0, VOCAB, (3, 1), generator=generator)
        tokens = (start + torch.arange(13)) % VOCAB
        targets = tokens[:, 1:].clone()
        targets[0, :4] = IGNORE
        positions = torch.arange(12).expand(3, -1)
        return Batch(tokens[:, :-1], targets, positions, torch.zeros_like(positions))


class NaNModel(Transformer):
    """Its logits are NaN at the `bad` steps."""

    bad: tuple[int, ...] = ()
    forwards = 0

    def forward(self, tokens_BT, positions_BT=None, segments_BT=None, wanted_BT=None):
        logits = super().forward(tokens_BT, positions_BT, segments_BT, wanted_BT)
        step, self.forwards = self.forwards, self.forwards + 1
        return logits * torch.nan if step in self.bad else logits


def build(cls: type[Transformer] = Transformer) -> tuple[Transformer, MuonClip]:
    torch.manual_seed(0)
    model = cls(MODEL)
    return model, MuonClip(model, OPTIMIZER)


def run(folder: Path, source: Source, model: Transformer, optimizer: MuonClip, steps: int = STEPS) -> TrainResult:
    schedule = Schedule(kind="cosine", lr_start=1.0, lr_end=0.1, warmup_steps=2).over(steps)
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    return train(
        model, optimizer, source, steps=steps, schedule=schedule, job=Job("test", folder / "scratch", None),
        plot=folder / "plot.csv", log_every=3, checkpoint_every=4, tokens_before=100,
    )  # fmt: skip


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
    assert result.tokens_seen == 100 + STEPS * 32 == result.rows[-1]["train/tokens_seen"]
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


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_torn_checkpoint_is_recognised_and_the_one_before_used(
    whole, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Source(9), *build())
    torn = tmp_path / "scratch" / "step-00000008" / file
    content = torn.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        torn.unlink()
    elif damage == "cut":
        torn.write_bytes(content[:middle])
    elif file != "state.json":  # a flipped bit in the middle of the weights
        torn.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        torn.write_bytes(b"{}")
    model, optimizer = build()
    source = Source()
    run(tmp_path, source, model, optimizer)
    assert source.asked[1] == 4
    assert "checkpoint passed over" in capsys.readouterr().out
    assert_equal(outcome(tmp_path, model, optimizer), whole)


def test_a_bad_step_leaves_no_trace_and_is_counted(tmp_path: Path) -> None:
    model, optimizer = build(NaNModel)
    model.bad = (0,)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(StageError, match="every step was left out"):
        run_one(tmp_path / "one", model, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model, optimizer = build(NaNModel)
    model.bad = (4, 5, 8)
    result = run(tmp_path / "more", Source(), model, optimizer)
    assert result.skipped == 3 and [row["spike/skipped"] for row in result.rows] == [0, 2, 3, 3]
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def run_one(folder: Path, model: Transformer, optimizer: MuonClip) -> None:
    (folder / "scratch").mkdir(parents=True)
    train(
        model, optimizer, Source(), steps=1, schedule=lambda step: 1.0, job=Job("test", folder / "scratch", None),
        plot=folder / "plot.csv", log_every=1, checkpoint_every=1,
    )  # fmt: skip


def test_three_bad_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    model, optimizer = build(NaNModel)
    model.bad = (3, 4, 5)
    with pytest.raises(StageError, match=r"3 steps in a row \(the last is step 5\)"):
        run(tmp_path, Source(), model, optimizer)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def assert_equal(found, wanted) -> None:
    assert found[0] == wanted[0]
    assert found[1].keys() == wanted[1].keys()
    for name, tensor in found[1].items():
        assert torch.equal(tensor, wanted[1][name]), name
