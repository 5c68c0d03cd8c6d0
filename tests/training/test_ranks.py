"""One trainer for one process and for many: 1, 2 and 4 gloo processes give equal losses and weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import everything, sharing
from processes import run as run_processes
from test_trainer import BEFORE, CHECKPOINT, OPTIMIZER, SPIKES, Source, build, settings

from k2core.machine.processes import must_launch
from k2core.optim.muonclip import MuonClip
from k2core.recipe import RecipeError
from k2core.stage import Job
from k2core.training.config import ParallelConfig
from k2core.training.learner import Learner
from k2core.training.ranks import Ranks
from k2core.training.setting import Setting
from k2core.training.trainer import Plan, train

STEPS = 6
LAUNCHER = "python -m torch.distributed.run --standalone --nproc-per-node {processes}"


def config(processes: int, **changes: Any) -> ParallelConfig:
    return sharing(processes, **{"launcher": LAUNCHER, "micro_batch_tokens": 24} | changes)


def outcome(folder: Path, parallel: ParallelConfig, rank: int, stop_at: int | None = None) -> dict[str, Any]:
    """What a training on these processes ends in, everything gathered."""
    ranks = Ranks(parallel.processes, rank, parallel.context, parallel.pipeline)
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    model, _ = build()
    ranks.spread(model, parallel)

    @torch.no_grad()
    def validate() -> dict[str, float]:
        return {"val/x": float(ranks.whole_rows(model)(torch.arange(24).view(2, 12)).abs().mean())}

    validate()  # as a stage does before it trains
    optimizer = MuonClip(model, OPTIMIZER)
    job = Job("test", folder / "scratch", None)
    result = train(
        Learner(model, optimizer, BEFORE), Plan(Source(stop_at=stop_at), settings(STEPS), validate, validate_every=3),
        Setting(job, SPIKES, CHECKPOINT, ranks, parallel.micro_batch_tokens), folder / "plot.csv",
    )  # fmt: skip
    state = {**model.state_dict(), **{f"optimizer/{k}": v for k, v in optimizer.state_dict().items()}}
    return {"rows": result.rows, "detail": result.detail, "state": everything(state, model.stages)}


def on_rank(rank: int, processes: int, folder: Path, changes: dict[str, Any], resume_at: int | None) -> dict[str, Any]:
    """`outcome`, stopped at a step and gone on with if `resume_at` says so."""
    os.environ["RANK"] = str(rank)
    if resume_at:
        with pytest.raises(SystemExit):
            outcome(folder, config(processes, **changes), rank, stop_at=resume_at)
    return outcome(folder, config(processes, **changes), rank)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome(tmp_path_factory.mktemp("alone"), config(1), 0)


@pytest.mark.parametrize(
    ("processes", "changes", "resume_at"),
    [
        (2, {}, None),
        (4, {}, None),
        (2, {"context": 2, "recompute": True}, 3),
        (4, {"context": 2, "experts": 2, "micro_batch_tokens": 6}, None),
        (2, {"pipeline": 2, "micro_batch_tokens": 12}, 3),
    ],
)
def test_any_number_of_processes_trains_alike(
    alone: dict[str, Any], tmp_path: Path, processes: int, changes: dict[str, Any], resume_at: int | None
) -> None:
    outcomes = run_processes(processes, on_rank, tmp_path, tmp_path / "work", changes, resume_at)
    for found in outcomes:
        assert [row["step"] for row in found["rows"]] == [3, 6]
        for row, wanted in zip(found["rows"], alone["rows"], strict=True):
            assert row.keys() == wanted.keys()
            for name in ("train/loss", "train/grad_norm", "train/tokens_seen", "qk_clip/max_logit", "val/x"):
                assert row[name] == pytest.approx(wanted[name], rel=2e-4), name
        for name, tensor in found["state"].items():
            assert torch.allclose(tensor, alone["state"][name], atol=5e-4), name
        assert found["state"].keys() == alone["state"].keys()
        lines = {name: content.count("\n") for name, content in found["detail"].items()}
        assert lines == {name: content.count("\n") for name, content in alone["detail"].items()}


def stopped_on_rank(rank: int, processes: int, folder: Path, changes: dict[str, Any]) -> None:
    os.environ["RANK"] = str(rank)
    with pytest.raises(SystemExit):
        outcome(folder, config(processes, **changes), rank, stop_at=3)


@pytest.mark.parametrize("changes", [{}, {"pipeline": 2, "micro_batch_tokens": 12}])
def test_a_training_goes_on_with_another_number_of_processes(
    alone: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    run_processes(2, stopped_on_rank, tmp_path, tmp_path / "work", changes)
    found = outcome(tmp_path / "work", config(1), 0)
    assert [row["train/loss"] for row in found["rows"]] == pytest.approx(
        [row["train/loss"] for row in alone["rows"]], rel=2e-4
    )
    for name, tensor in found["state"].items():
        assert torch.allclose(tensor, alone["state"][name], atol=5e-4), name


def test_rows_are_shared_out_without_overlap() -> None:
    for world, context in ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4)):
        shares = [list(Ranks(world, rank, context).rows(8)) for rank in range(world)]
        assert sorted(row for share in shares[::context] for row in share) == list(range(8))
        assert all(shares[rank] == shares[rank - rank % context] for rank in range(world))
    with pytest.raises(ValueError, match="6 rows per step cannot be shared out over 4"):
        Ranks(4, 0, 1).rows(6)


def test_torchrun_and_the_recipe_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert must_launch(config(2)) and not must_launch(config(1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not must_launch(config(2))
    with pytest.raises(RecipeError, match=r"parallel.processes is 4, but torchrun started 2"):
        must_launch(config(4))
    with pytest.raises(ValueError, match="processes 3 is not a multiple of context 2"):
        config(3, context=2)
