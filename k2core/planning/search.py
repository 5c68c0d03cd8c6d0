"""The meshes of a family that can run a recipe on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import log2
from typing import Any

from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Jobs
from k2core.planning.mesh import Mesh, Refused
from k2core.planning.pipelined import PipelinedMesh
from k2core.planning.plan import Plan, plan
from k2core.planning.today import Today

MOST = 128
"""Stages of a pipeline, ranks that share experts, ranks that share a row: more are not looked at."""
MICRO_BATCHES = (4096, 8192, 16384, 32768)
"""Tokens of a micro-batch that are looked at."""


def workable(jobs: Jobs, candidates: Iterator[Mesh], cluster: Cluster) -> list[Plan]:
    """The plans of those `candidates` that are not refused, the fastest first.

    Of equally fast ones first that which saves no memory where it need not, then the smallest.
    """
    found: list[Plan] = []
    for mesh in candidates:
        try:
            found.append(plan(jobs, mesh, cluster))
        except Refused:
            continue
    return sorted(found, key=lambda each: (each.hours, each.mesh.saving, each.fullest.memory.peak))


def best(plans: list[Plan], most: int) -> list[Plan]:
    """The first `most` of `plans`, of equally fast ones only one."""
    chosen: dict[float, Plan] = {}
    for each in plans:
        chosen.setdefault(each.hours, each)
    return list(chosen.values())[:most]


def todays(jobs: Jobs, cluster: Cluster) -> Iterator[Today]:
    """GPUs of one node and whole nodes, groups that share rows and experts, with and without recomputation."""
    node, alone = cluster.gpus_per_node, {"replicas": 1, "pipeline": 1, "virtual": 1}
    for processes in (*range(1, node), *range(node, cluster.gpus + 1, node)):
        sizes = [size for size in _powers(min(processes, MOST)) if processes % size == 0]
        for context, experts, recompute in product(sizes, sizes, (False, True)):
            update = {"processes": processes, "context": context, "experts": experts, "recompute": recompute}
            yield Today(jobs.parallel.model_copy(update=alone | update))


def pipelined(jobs: Jobs, cluster: Cluster) -> Iterator[PipelinedMesh]:
    """All GPUs of the cluster in every division, with optimiser state on the GPUs and offloaded."""
    layers = jobs.model.num_hidden_layers
    for pipeline in _powers(min(cluster.gpus, layers, MOST)):
        pieces = range(1, min(4, layers // pipeline) + 1 if pipeline > 1 else 2)
        ranks = _powers(min(cluster.gpus // pipeline, MOST))
        for virtual, experts, tokens, offload in product(pieces, ranks, MICRO_BATCHES, (False, True)):
            yield PipelinedMesh(
                pipeline=pipeline, virtual=virtual, experts=experts, micro_batch_tokens=tokens, offload=offload,
                gpus=cluster.gpus,
            )  # fmt: skip


def nearest(jobs: Jobs, mesh: Today | PipelinedMesh, cluster: Cluster) -> Plan | None:
    """The plan of the family that changes least of `mesh`; None where the cluster can run none."""
    family: Iterator[Mesh] = todays(jobs, cluster) if isinstance(mesh, Today) else pipelined(jobs, cluster)
    found = workable(jobs, family, cluster)
    return min(found, key=lambda each: _apart(_settings(each.mesh), _settings(mesh)), default=None)


def _settings(mesh: Mesh) -> dict[str, Any]:
    return vars(mesh.parallel if isinstance(mesh, Today) else mesh)


def _apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How far two meshes are from each other: doublings of each number, and 1 for each switch."""
    total = 0.0
    for name, value in one.items():
        wanted = other[name]
        if isinstance(value, bool):
            total += value != wanted
        elif isinstance(value, int):
            total += abs(log2(value / wanted))
    return total


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4, … up to `most`."""
    power = 1
    while power <= most:
        yield power
        power *= 2
