"""What the optimiser needs of parameters spread over processes; with plain tensors in one process it does nothing.

A spread parameter is a DTensor that each axis of its mesh splits into rows of its matrices, or into whole matrices of a
stack (an expert-parallel rank holds its experts), or copies.

Run on CPU with gloo, 2 and 4 processes (tests/optim/test_sharded.py); never on GPUs with NCCL.

Shapes: B matrices, m rows of each in this process, N their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard


def local(tensor: Tensor) -> Tensor:
    """This process's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, parameter: Tensor) -> Tensor:
    """`part`, which is this process's share of something shaped like `parameter`, spread as the parameter is."""
    if not isinstance(parameter, DTensor):
        return part
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=stride
    )


def all_reduce(tensor: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None = None) -> None:
    """Combine `tensor` over a group, all processes by default, in place."""
    if tensor.numel() and dist.is_initialized():
        dist.all_reduce(tensor, op, group)


def stacked(own: Mapping[int, Tensor], layers: range, unseen: Tensor) -> Tensor:
    """What this process has of each of `layers`, [layers, …], `unseen` where it has nothing; [0, 0] of no layers."""
    return torch.stack([own.get(layer, unseen) for layer in layers]) if layers else torch.zeros(0, 0)


def scale_rows(weight: Tensor, factors: Tensor) -> None:
    """Multiply row i of `weight` by `factors[i]`, in place; each process its own rows."""
    if isinstance(weight, DTensor):
        mesh = weight.device_mesh
        everywhere = DTensor.from_local(factors, mesh, [Replicate()] * mesh.ndim, run_check=False)
        factors = everywhere.redistribute(placements=weight.placements).to_local()
    local(weight).mul_(factors.unsqueeze(-1))


@dataclass(frozen=True)
class Layout:
    """Shape and place of the matrices in a parameter [..., M, N]; parameters of equal layout are stacked.

    Attributes:
        places: what each axis of `mesh` does to a stack [B, M, N]: Shard(0) deals out matrices, Shard(1) their rows.
    """

    shape: tuple[int, int]
    mesh: DeviceMesh | None = None
    places: tuple[Placement, ...] = ()

    @staticmethod
    def of(name: str, parameter: Tensor) -> Layout:
        """Layout of `parameter`.

        Raises:
            ValueError: its columns are split.
        """
        M, N = parameter.shape[-2:]
        if not isinstance(parameter, DTensor):
            return Layout((M, N))
        places: list[Placement] = []
        for place in parameter.placements:
            if isinstance(place, Shard) and place.dim < parameter.ndim - 1:
                places.append(Shard(1) if place.dim == parameter.ndim - 2 else Shard(0))
            elif isinstance(place, Replicate):
                places.append(place)
            else:
                raise ValueError(f"{name} is spread as {parameter.placements}; the last axis cannot be split")
        return Layout((M, N), parameter.device_mesh, tuple(places))

    def apply(self, function: Callable[[Tensor], Tensor], part_BmN: Tensor) -> Tensor:
        """`function` of stacked matrices [B, M, N], of which this process has and gets back its part.

        Matrices whose rows are split are exchanged so that each is whole on one process (two all-to-all; gloo gathers
        instead). Processes with other matrices or copies take no part in it.
        """
        if Shard(1) not in self.places:
            return function(part_BmN)
        (M, N), B = self.shape, len(part_BmN)
        rows: list[Placement] = [place if place == Shard(1) else Replicate() for place in self.places]
        whole: list[Placement] = [Shard(0) if place == Shard(1) else Replicate() for place in self.places]

        def stacked(part: Tensor, places: Sequence[Placement]) -> DTensor:
            shape, stride = torch.Size((B, M, N)), (M * N, N, 1)
            return DTensor.from_local(part, self.mesh, places, run_check=False, shape=shape, stride=stride)

        matrices = stacked(part_BmN, rows).redistribute(placements=whole)
        return stacked(function(matrices.to_local()), whole).redistribute(placements=rows).to_local()

    def total(self, part: Tensor) -> Tensor:
        """Sum of `part` over the processes that the parameters are split over."""
        if self.mesh is None:
            return part
        terms = [Partial() if place.is_shard() else place for place in self.places]
        return DTensor.from_local(part, self.mesh, terms, run_check=False).full_tensor()
