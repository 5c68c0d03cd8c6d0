"""Weights, gradients, optimiser state and activations of a plan are those of real trainings on gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CONFIG, SHAPE, Kept, run, sharing

from k2core.data.rows.batch import Batch
from k2core.model.transformer import Transformer
from k2core.ops import using
from k2core.optim.muonclip import MuonClip
from k2core.optim.sharding import local
from k2core.planning.activations import Activations
from k2core.planning.jobs import Job, Jobs
from k2core.planning.staged import mesh_of
from k2core.training.config import ParallelConfig
from k2core.training.ranks import Ranks

LARGER = {"hidden_size": 64, "moe_intermediate_size": 32, "num_attention_heads": 6, "num_hidden_layers": 4}
BATCH = Batch(*(torch.randint(2, 64, (2, 64), generator=torch.Generator().manual_seed(n)) for n in (0, 1)),
              torch.arange(64).expand(2, -1), torch.zeros(2, 64, dtype=torch.long))  # fmt: skip
JOB = Job("stable", tokens=1024, batch_tokens=256, context=64)


def parallel(processes: int, experts: int, pipeline: int) -> ParallelConfig:
    return sharing(processes, experts=experts, pipeline=pipeline, micro_batch_tokens=64)


def held(rank: int, processes: int, experts: int, pipeline: int) -> dict[str, int]:
    """Bytes that this rank has after a step."""
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    ranks = Ranks(processes, rank, pipeline=pipeline, device=torch.device("cpu"))
    ranks.spread(model, parallel(processes, experts, pipeline))
    optimizer = MuonClip(model, CONFIG)
    ranks.backward(model, [BATCH] * pipeline, 100.0)
    optimizer.step(1.0)
    parts: dict[str, list[Any]] = {
        "weights": list(model.parameters()), "gradients": [p.grad for p in model.parameters()],
        "optimiser": [t for name, t in optimizer.state_dict().items() if name != "adamw/step"],
    }  # fmt: skip
    return {name: sum(local(t).nbytes for t in tensors) for name, tensors in parts.items()}


@pytest.mark.parametrize(
    ("processes", "experts", "pipeline"), [(1, 1, 1), (2, 2, 1), (4, 1, 1), (4, 2, 1), (2, 1, 2), (4, 2, 2)]
)
def test_states_are_those_of_a_real_training(processes: int, experts: int, pipeline: int, tmp_path: Path) -> None:
    """Of the rank that has most."""
    jobs = Jobs(SHAPE, "fp32", parallel(processes, experts, pipeline), (JOB,), ())
    expected = mesh_of(jobs.parallel).memory(jobs, JOB).states
    found = [held(0, 1, 1, 1)] if processes == 1 else run(processes, held, tmp_path, experts, pipeline)
    most = max(found, key=lambda rank: sum(rank.values()))
    for name, size in expected.items():
        assert most[name] == pytest.approx(size, rel=0.05), name


def kept(rank: int, processes: int, changes: dict[str, int], sizes: dict[str, int]) -> int:
    """Bytes that this rank's layers keep of a micro-batch of two rows, by the kernels in C."""
    config = sharing(processes, micro_batch_tokens=128, **sizes)
    ranks, seen = Ranks(processes, rank, config.context, device=torch.device("cpu")), Kept()
    torch.manual_seed(0)
    model = Transformer(SHAPE.model_copy(update=changes))
    ranks.spread(model, config)
    own = ranks.part(BATCH)
    with using("cpu"), seen.of(model):
        model(own.tokens_BT, own.positions_BT, own.segments_BT, targets_BT=own.targets_BT)
    return seen.bytes


@pytest.mark.parametrize("changes", [{}, LARGER], ids=["small", "larger"])
@pytest.mark.parametrize(("processes", "sizes"), [(1, {}), (2, {"experts": 2}), (4, {"experts": 2, "context": 2})])
def test_activations_are_those_of_a_real_training(
    processes: int, sizes: dict[str, int], changes: dict[str, int], tmp_path: Path
) -> None:
    """The mean of all ranks: which experts are visited is not foreseen."""
    found = [kept(0, 1, changes, sizes)] if processes == 1 else run(processes, kept, tmp_path, changes, sizes)
    model, shared = SHAPE.model_copy(update=changes), sizes.get("context", 1)
    part = Activations(model, "fp32", 128 / shared, 64, shared, "experts" in sizes)
    expected = part.layer(True) + (model.num_hidden_layers - 1) * part.layer(False)
    assert sum(found) / processes == pytest.approx(expected, rel=0.05)
