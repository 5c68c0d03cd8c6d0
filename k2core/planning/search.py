"""The meshes of a family that can run a recipe on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest
from itertools import product
from math import gcd, isqrt, log2
from typing import Any

from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Jobs
from k2core.planning.mesh import Mesh, Refused
from k2core.planning.pipelined import PipelinedMesh
from k2core.planning.plan import Plan, plan
from k2core.planning.staged import mesh_of
from k2core.planning.today import Today

MOST = 128
"""Stages of a pipeline, ranks that share experts, ranks that share a row: more are not looked at."""
MICRO_BATCHES = (4096, 8192, 16384, 32768)
"""Tokens of a micro-batch that are looked at."""
VIRTUAL = 4
"""Pieces on each stage of a pipeline, at most."""
LOOKED_AT = 2000
"""Meshes near to one that cannot be, of which the first that can is named."""


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
    """Meshes of the recipe's section `parallel`, on GPUs of one node or on whole nodes.

    Pipelines, groups that share rows and experts, with and without recomputation; groups that share out a step's rows.
    """
    node, layers = cluster.gpus_per_node, jobs.model.num_hidden_layers
    groups = _divisors(gcd(*(job.rows for job in jobs.pretraining)), cluster.gpus)
    for pipeline in _powers(min(cluster.gpus, layers, MOST)):
        pieces = range(1, min(VIRTUAL, layers // pipeline) + 1 if pipeline > 1 else 2)
        for context, group in product(_powers(MOST), groups):
            processes, stage = pipeline * context * group, context * group
            if processes > cluster.gpus or (processes > node and processes % node):
                continue
            experts = [size for size in _powers(min(stage, MOST)) if stage % size == 0]
            for virtual, size, recompute in product(pieces, experts, (False, True)):
                sizes = {"processes": processes, "pipeline": pipeline, "virtual": virtual, "context": context}
                changes = sizes | {"experts": size, "replicas": 1, "recompute": recompute}
                yield mesh_of(jobs.parallel.model_copy(update=changes))


def pipelined(jobs: Jobs, cluster: Cluster) -> Iterator[PipelinedMesh]:
    """All GPUs of the cluster in every division, with optimiser state on the GPUs and offloaded."""
    layers = jobs.model.num_hidden_layers
    for pipeline in _powers(min(cluster.gpus, layers, MOST)):
        pieces = range(1, min(VIRTUAL, layers // pipeline) + 1 if pipeline > 1 else 2)
        ranks = _powers(min(cluster.gpus // pipeline, MOST))
        for virtual, experts, tokens, offload in product(pieces, ranks, MICRO_BATCHES, (False, True)):
            yield PipelinedMesh(
                pipeline=pipeline, virtual=virtual, experts=experts, micro_batch_tokens=tokens, offload=offload,
                gpus=cluster.gpus,
            )  # fmt: skip


def nearest(jobs: Jobs, mesh: Today | PipelinedMesh, cluster: Cluster) -> Plan | None:
    """The plan of the family that changes least of `mesh`; None where none of the nearest `LOOKED_AT` can run."""
    if isinstance(mesh, Today):
        family: Iterator[Mesh] = todays(jobs, cluster)
    else:
        family = pipelined(jobs, cluster.model_copy(update={"gpus": min(mesh.gpus, cluster.gpus)}))
    wanted = _settings(mesh)
    for other in nsmallest(LOOKED_AT, family, key=lambda each: _apart(_settings(each), wanted)):
        for found in workable(jobs, iter([other]), cluster):
            return found
    return None


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


def _divisors(number: int, most: int) -> list[int]:
    """Those up to `most`, rising."""
    found = {each for low in range(1, isqrt(number) + 1) if number % low == 0 for each in (low, number // low)}
    return sorted(each for each in found if each <= most)


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4, … up to `most`."""
    power = 1
    while power <= most:
        yield power
        power *= 2
