"""Every tensor of K2 has its place on the mesh of recipes/k2.yaml, in a process group that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from workspace import ROOT

from k2core.model.counts import count
from k2core.model.transformer import Transformer
from k2core.optim.sharding import local
from k2core.planning.jobs import read_jobs
from k2core.planning.staged import mesh_of
from k2core.training.config import ParallelConfig
from k2core.training.ranks import Ranks

JOBS = read_jobs(ROOT / "recipes" / "k2.yaml")
WEIGHT = 4
"""Bytes of a weight in fp32."""


@contextmanager
def as_rank(rank: int, processes: int) -> Iterator[None]:
    """This process is one of so many, of which the others do not exist."""
    dist.init_process_group("fake", rank=rank, world_size=processes, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def placed(rank: int, parallel: ParallelConfig) -> dict[str, tuple[int, int]]:
    """Name → numbers of the whole tensor and of this rank's part, without memory for either."""
    with as_rank(rank, parallel.processes):
        with torch.device("meta"):
            model = Transformer(JOBS.model)
        ranks = Ranks(parallel.processes, rank, parallel.context, parallel.pipeline, device=torch.device("cpu"))
        ranks.spread(model, parallel)
        return {name: (p.numel(), local(p).numel()) for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def stages() -> list[dict[str, tuple[int, int]]]:
    """What the first rank of each stage has."""
    parallel = JOBS.parallel
    return [placed(stage * parallel.stage, parallel) for stage in range(parallel.pipeline)]


def test_every_tensor_is_on_one_stage_and_cut_over_its_ranks(stages: list[dict[str, tuple[int, int]]]) -> None:
    for one, other in pairwise(stages):
        assert one and not one.keys() & other.keys()
    numbers = {name: sizes for stage in stages for name, sizes in stage.items()}
    assert len(numbers) == sum(map(len, stages))
    with torch.device("meta"):
        whole = {name: p.numel() for name, p in Transformer(JOBS.model).named_parameters()}
    assert numbers.keys() == whole.keys()
    assert sum(whole.values()) == count(JOBS.model).total
    for name, (_, part) in numbers.items():
        assert whole[name] / JOBS.parallel.shards <= part < 1.02 * whole[name] / JOBS.parallel.shards + 1, name


def test_the_fullest_rank_is_the_planners(stages: list[dict[str, tuple[int, int]]]) -> None:
    most = max(sum(part for _, part in stage.values()) for stage in stages)
    planned = mesh_of(JOBS.parallel).memory(JOBS, JOBS.pretraining[0]).states["weights"]
    assert WEIGHT * most == pytest.approx(planned, rel=0.02)
