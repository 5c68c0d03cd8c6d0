"""The machine of a plan, as a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from k2core.machine.device import Precision
from k2core.recipe import RecipeError, Section, validate
from k2core.recipe.reading import read_yaml

H800 = Path(__file__).parent / "h800-256.yaml"
"""The least that K2's report trained on."""


class Cluster(Section):
    """GPUs in equal nodes. Rates are of one GPU and one direction."""

    gpus: int = Field(ge=1, description="GPUs in all")
    gpus_per_node: int = Field(ge=1, description="GPUs of a node, which exchange at inside_gb_s")
    memory_gb: float = Field(gt=0, description="memory of a GPU, 1e9 bytes")
    reserved_gb: float = Field(ge=0, description="of it for CUDA, NCCL and fragmentation, 1e9 bytes")
    host_memory_gb: float = Field(gt=0, description="memory of a node for optimiser state that is offloaded, 1e9 bytes")
    tflops: dict[Precision, PositiveFloat] = Field(
        description="dense peak of a GPU by precision, 1e12 operations per second"
    )
    inside_gb_s: float = Field(gt=0, description="from a GPU to others of its node, 1e9 bytes per second")
    between_gb_s: float = Field(gt=0, description="from a GPU to other nodes, 1e9 bytes per second")
    exchange_us: float = Field(
        default=0, ge=0, description="what an exchange takes besides its bytes, 1e-6 s; 0: it hides behind the work"
    )
    overlap: bool = Field(
        default=True, description="weights travel while a GPU works; false where both are work of the same cores"
    )
    share_of_peak: float = Field(
        gt=0, le=1, description="share of the peak that training reaches; recomputing takes time and does not count"
    )
    share_source: str = Field(min_length=1, description="where share_of_peak was published or measured")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpus % self.gpus_per_node:
            raise ValueError(f"gpus {self.gpus} is not a multiple of gpus_per_node {self.gpus_per_node}")
        if self.reserved_gb >= self.memory_gb:
            raise ValueError(f"reserved_gb {self.reserved_gb:g} leaves nothing of memory_gb {self.memory_gb:g}")
        return self

    def peak(self, precision: Precision) -> float:
        """Operations per second of a GPU, at most.

        Raises:
            RecipeError: the file does not say.
        """
        if precision not in self.tflops:
            raise RecipeError(f"the cluster's tflops lacks {precision}, which the recipe computes in; add it")
        return self.tflops[precision] * 1e12

    @property
    def usable(self) -> float:
        """Bytes of a GPU that a training may take."""
        return (self.memory_gb - self.reserved_gb) * 1e9


def load_cluster(path: Path) -> Cluster:
    """The cluster in the file at `path`.

    Raises:
        RecipeError: it cannot be read, or a key does not fit.
    """
    return validate(Cluster, read_yaml(path), str(path))
