"""What the optimiser needs of parameters spread over processes; with plain tensors in one process it does nothing.

A spread parameter is a DTensor that each axis of its mesh splits into rows of its matrices, or into whole matrices of a
stack (an expert-parallel rank holds its experts), or copies.

Run on CPU with gloo, 2 and 4 processes (tests/optim/test_sharded.py); never on GPUs with NCCL.

Shapes: B matrices, M their rows, m the rows of each in this process, N their columns.
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


Split = tuple[DeviceMesh | None, tuple[bool, ...]]
"""A mesh, and of each of its axes whether a parameter is split over it."""


def total(part: Tensor, split: Split) -> Tensor:
    """Sum of `part` over the processes that a parameter is split over."""
    mesh, axes = split
    if mesh is None:
        return part
    return DTensor.from_local(
        part, mesh, [Partial() if own else Replicate() for own in axes], run_check=False
    ).full_tensor()


@dataclass(frozen=True)
class Layout:
    """Shape and place of the matrices in a parameter [..., M, N]; parameters of equal layout are stacked.

    Attributes:
        places: what each axis of `mesh` does to a stack [B, M, N]: Shard(0) deals out matrices, Shard(1) their rows.
    """

    shape: tuple[int, int]
    mesh: DeviceMesh | None = None
    places: tuple[Placement, ...] = ()

    @property
    def split(self) -> Split:
        return self.mesh, tuple(place.is_shard() for place in self.places)

    @staticmethod
    def of(name: str, parameter: Tensor) -> Layout:
        """Layout of `parameter`.

        Raises:
            ValueError: its columns are split, or its rows over more than one axis of a mesh.
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
        if places.count(Shard(1)) > 1:
            raise ValueError(f"{name} is spread as {parameter.placements}; rows can be split over one axis alone")
        return Layout((M, N), parameter.device_mesh, tuple(places))

    def apply(self, function: Callable[[Tensor], Tensor], part_BmN: Tensor) -> Tensor:
        """`function` of stacked matrices [B, M, N], of which this process has and gets back its part.

        Matrices whose rows are split are exchanged so that each is whole on one process: two all-to-all. (DTensor
        gathers the whole stack where the backend is gloo.) Processes with other matrices or copies take no part in it.
        """
        if self.mesh is None or Shard(1) not in self.places:
            return function(part_BmN)
        axis = self.places.index(Shard(1))
        group, rank = self.mesh.get_group(axis), self.mesh.get_local_rank(axis)
        processes = range(self.mesh.size(axis))
        (M, N), B = self.shape, len(part_BmN)
        rows = [Shard.local_shard_size_and_offset(M, len(processes), process)[0] for process in processes]
        dealt = [Shard.local_shard_size_and_offset(B, len(processes), process)[0] for process in processes]
        there = [matrices * rows[rank] * N for matrices in dealt]
        back = [dealt[rank] * m * N for m in rows]

        parts = _all_to_all(part_BmN.reshape(-1), there, back, group).split(back)
        whole_BMN = torch.cat([part.view(dealt[rank], m, N) for part, m in zip(parts, rows, strict=True)], 1)
        moved_BMN = function(whole_BMN)
        sent = torch.cat([part.reshape(-1) for part in moved_BMN.split(rows, 1)])
        return _all_to_all(sent, back, there, group).view(part_BmN.shape)


def _all_to_all(sent: Tensor, there: Sequence[int], back: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """The numbers that each process of a group has for this one, [Σ back]; `sent` are its own for each, [Σ there]."""
    got = sent.new_empty(sum(back))
    dist.all_to_all_single(got, sent, list(back), list(there), group)
    return got
