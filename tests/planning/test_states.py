"""Weights, gradients and optimiser state of a plan are those of real trainings on gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CONFIG, SHAPE, run, sharing

from k2core.model.transformer import Transformer
from k2core.optim.muonclip import MuonClip
from k2core.optim.sharding import local
from k2core.planning.jobs import Job, Jobs
from k2core.planning.today import Today
from k2core.training.config import ParallelConfig
from k2core.training.ranks import Ranks

JOB = Job("stable", tokens=1024, batch_tokens=256, context=64)


def parallel(processes: int, experts: int) -> ParallelConfig:
    return sharing(processes, experts=experts, micro_batch_tokens=64)


def held(rank: int, processes: int, experts: int) -> dict[str, int]:
    """Bytes that this rank has after a step."""
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    Ranks(processes, rank, device=torch.device("cpu")).spread(model, parallel(processes, experts))
    optimizer = MuonClip(model, CONFIG)
    model(torch.randint(64, (1, 64)), targets_BT=torch.randint(64, (1, 64))).backward()
    optimizer.step(1.0)
    parts: dict[str, list[Any]] = {
        "weights": list(model.parameters()), "gradients": [p.grad for p in model.parameters()],
        "optimiser": [t for name, t in optimizer.state_dict().items() if name != "adamw/step"],
    }  # fmt: skip
    return {name: sum(local(t).nbytes for t in tensors) for name, tensors in parts.items()}


@pytest.mark.parametrize(("processes", "experts"), [(1, 1), (2, 2), (4, 1), (4, 2)])
def test_states_are_those_of_a_real_training(processes: int, experts: int, tmp_path: Path) -> None:
    jobs = Jobs(SHAPE, "fp32", parallel(processes, experts), (JOB,), ())
    expected = Today(jobs.parallel).memory(jobs, JOB).states
    found = [held(0, 1, experts)] if processes == 1 else run(processes, held, tmp_path, experts)
    for name, size in expected.items():
        assert max(rank[name] for rank in found) == pytest.approx(size, rel=0.05), name
