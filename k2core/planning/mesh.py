"""What both families of meshes share: the interface, memory by kind, bytes by link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from k2core.machine.device import Precision
from k2core.model.config import ModelConfig
from k2core.model.counts import cut_axis, weights
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs


class Refused(ValueError):
    """The mesh cannot run the recipe on the cluster; the message says why in one sentence."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, that which needs most.

    Attributes:
        states: weights, gradients and optimiser by name; they are always there.
        passing: what a micro-batch needs on top by name: gathered weights, activations, and logits or a layer's
            backward pass, whichever is more: the logits are gone when the first layer begins.
        update: Muon's work space, which comes when the micro-batches have gone.
        late: of the gradients, what is not there yet when the micro-batch needs most.
        host: optimiser state that the rank keeps in its node's memory.
    """

    states: dict[str, float]
    passing: dict[str, float]
    update: float
    late: float = 0.0
    host: float = 0.0

    @property
    def peak(self) -> float:
        return sum(self.states.values()) + max(sum(self.passing.values()) - self.late, self.update)


@dataclass(frozen=True)
class Sent:
    """Bytes that a rank sends: to others of its node, and to other nodes."""

    inside: float = 0.0
    between: float = 0.0

    def seconds(self, cluster: Cluster) -> float:
        """Time of both links one after the other."""
        return self.inside / cluster.inside_gb_s / 1e9 + self.between / cluster.between_gb_s / 1e9


def all_to_all(size: float, ranks: int, near: int) -> Sent:
    """Each rank has `size` bytes, of which every one of `ranks` gets an equal part; `near` of them share its node."""
    return Sent(size * (near - 1) / ranks, size * (ranks - near) / ranks)


def ring(size: float, ranks: int, near: int) -> Sent:
    """All-gather or reduce-scatter of a tensor of `size` bytes in all; its rings enter a node on every GPU in turn."""
    return Sent(size * (near - 1) / near, size * (ranks - near) / (ranks * near))


def near(ranks: int, stride: int, per_node: int) -> int:
    """How many of a group of `ranks`, `stride` apart, are in one node."""
    return max(1, min(ranks, per_node // stride))


class Mesh(Protocol):
    """One way of sharing a training out over ranks."""

    @property
    def ranks(self) -> int: ...

    @property
    def saving(self) -> bool:
        """Whether it saves memory in a way whose price the time of a step does not show."""
        ...

    def check(self, jobs: Jobs, job: Job, cluster: Cluster) -> None:
        """
        Raises:
            Refused: something does not divide.
        """
        ...

    def memory(self, jobs: Jobs, job: Job) -> Memory: ...

    def sent(self, jobs: Jobs, job: Job, cluster: Cluster) -> dict[str, Sent]:
        """What a rank sends in a step, by what for."""
        ...

    def exchanges(self, jobs: Jobs, job: Job) -> int:
        """How many exchanges a rank takes part in, in a step."""
        ...

    def seconds(self, jobs: Jobs, job: Job, cluster: Cluster) -> float:
        """Time of a step."""
        ...

    def described(self) -> str: ...


def fsdp_exchanges(layers: int, with_experts: int) -> int:
    """Of a forward and a backward pass: each layer is gathered twice and reduced, the rest of the model once each.

    Args:
        with_experts: of the layers, those whose experts are cut up too.
    """
    return 3 * (layers + with_experts) + 2


def muon_exchanges(model: ModelConfig, shards: int) -> int:
    """To whole matrices and back, for each stack of equal ones whose rows are cut."""
    cut = (each.shape for each in weights(model) if each.muon and cut_axis(each.shape, shards) == len(each.shape) - 2)
    return 2 * len({shape[-2:] for shape in cut}) if shards > 1 else 0


ALL_RANKS = 5
"""Exchanges of a step between all ranks: targets, loss, RMS of the updates, largest logits, loads of the experts."""


def work_seconds(jobs: Jobs, job: Job, cluster: Cluster, ranks: int, precision: Precision) -> float:
    """Time of a step's operations on `ranks` GPUs at the cluster's share of the peak."""
    return job.flops(jobs.model) / (ranks * cluster.peak(precision) * cluster.share_of_peak)
