"""K2's own training on the least cluster that its report names."""

from __future__ import annotations

from pathlib import Path

from k2core.planning.cluster import H800, load_cluster
from k2core.planning.jobs import read_jobs
from k2core.planning.pipelined import PipelinedMesh
from k2core.planning.plan import Plan, plan


def reported(recipe: Path) -> Plan:
    """The plan of §2.4.2: pipeline 16, experts over 16, optimiser state in the nodes' memory.

    How many virtual stages and which micro-batches it does not say.
    """
    cluster = load_cluster(H800)
    mesh = PipelinedMesh(pipeline=16, virtual=3, experts=16, offload=True, gpus=cluster.gpus)
    return plan(read_jobs(recipe), mesh, cluster)
