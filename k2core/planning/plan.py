"""A mesh on a cluster: whether it can run the recipe's pre-training, and what each phase takes."""

from __future__ import annotations

from dataclasses import dataclass

from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs
from k2core.planning.mesh import Memory, Mesh, Refused, Sent


@dataclass(frozen=True)
class Phase:
    """What one phase takes on the mesh; `seconds` and `sent` are of a step, `sent` of a rank."""

    job: Job
    memory: Memory
    sent: dict[str, Sent]
    seconds: float

    @property
    def hours(self) -> float:
        """Of the whole phase."""
        return self.seconds * self.job.steps / 3600


@dataclass(frozen=True)
class Plan:
    """All phases on one mesh."""

    jobs: Jobs
    mesh: Mesh
    cluster: Cluster
    phases: tuple[Phase, ...]

    @property
    def hours(self) -> float:
        return sum(phase.hours for phase in self.phases)

    @property
    def fullest(self) -> Phase:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.memory.peak)


def plan(jobs: Jobs, mesh: Mesh, cluster: Cluster) -> Plan:
    """The plan of the recipe's pre-training.

    Raises:
        Refused: sizes do not divide, or a GPU or a node cannot hold its part.
    """
    for job in jobs.pretraining:
        mesh.check(jobs, job, cluster)
    phases = []
    for job in jobs.pretraining:
        memory = mesh.memory(jobs, job)
        _check_room(memory, job, cluster)
        phases.append(Phase(job, memory, mesh.sent(jobs, job, cluster), mesh.seconds(jobs, job, cluster)))
    return Plan(jobs, mesh, cluster, tuple(phases))


def _check_room(memory: Memory, job: Job, cluster: Cluster) -> None:
    if memory.peak > cluster.usable:
        states = sum(memory.states.values())
        what = "of weights, gradients and optimiser alone" if states > cluster.usable else (
            f"({states / 1e9:.0f} GB of states and {(memory.peak - states) / 1e9:.0f} GB at work)"
        )  # fmt: skip
        needed = states if states > cluster.usable else memory.peak
        raise Refused(
            f"{job.name}: a GPU needs {needed / 1e9:.0f} GB {what} and has {cluster.usable / 1e9:.0f} GB for it"
        )
    host = memory.host * cluster.gpus_per_node
    if host > cluster.host_memory_gb * 1e9:
        raise Refused(
            f"{job.name}: a node needs {host / 1e9:,.0f} GB for offloaded optimiser state and has "
            f"{cluster.host_memory_gb:,.0f} GB"
        )
