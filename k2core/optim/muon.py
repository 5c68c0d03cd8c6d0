"""Muon: momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024), at AdamW's update size (Moonlight §2.2).

Shapes: B matrices, M their rows, N their columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from k2core import ops
from k2core.optim.sharding import Layout, Split, all_reduce, like, local, total

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
UPDATE_RMS = 0.2
"""RMS of an update with learning rate 1: √(max(rows, columns)) · 0.2 on an orthogonal matrix, about AdamW's."""


def orthogonalize(matrices_BMN: Tensor) -> Tensor:
    """Nearest (semi-)orthogonal matrices, roughly: singular values land in about [0.7, 1.2]; zero stays zero."""
    return ops.newton_schulz(matrices_BMN, STEPS, COEFFICIENTS)


class Muon:
    """Muon over named parameters of at least two axes.

    The last two axes are a matrix; leading ones (experts, gate and up) are batches of matrices, each orthogonalised on
    its own. Matrices of equal shape, whatever their parameter, go through Newton-Schulz together. Parameters may be
    spread over processes: momenta are spread likewise, and each matrix is orthogonalised whole on one of them.

    Args:
        blocks: name → equal blocks of rows (heads) of its matrices that are each orthogonalised alone; 1 by default.
        stages: processes that move the other layers of the model, if there are any.
    """

    def __init__(
        self, parameters: Iterable[tuple[str, nn.Parameter]], momentum: float, weight_decay: float,
        blocks: Mapping[str, int] | None = None, stages: dist.ProcessGroup | None = None,
    ) -> None:  # fmt: skip
        self.momentum, self.weight_decay, self.stages = momentum, weight_decay, stages
        self.groups: dict[tuple[Layout, int], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters:
            group = Layout.of(name, parameter), (blocks or {}).get(name, 1)
            self.groups.setdefault(group, []).append((name, parameter))
        self.buffers = {
            group: torch.cat([torch.zeros_like(_matrices(parameter)) for _, parameter in members])
            for group, members in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float, gradient_scale: float) -> Tensor:
        """Move the weights; returns the RMS of all updates before the learning rate (about `UPDATE_RMS`), a scalar.

        Args:
            gradient_scale: positive factor of the gradients (clipping).

        Raises:
            ValueError: a parameter has no gradient.
        """
        squares, count = dict[Split, Tensor](), 0
        for (layout, blocks), members in self.groups.items():
            gradient = torch.cat([_matrices(_gradient(name, parameter)) for name, parameter in members])
            buffer = self.buffers[layout, blocks]
            buffer.mul_(self.momentum).add_(gradient, alpha=gradient_scale)
            # Nesterov's gradient · scale + momentum · buffer, up to a factor that orthogonalising removes.
            nesterov = gradient.add_(buffer, alpha=self.momentum / gradient_scale)
            rows, columns = layout.shape
            factor = UPDATE_RMS * max(rows // blocks, columns) ** 0.5
            update = layout.apply(partial(_orthogonalize_blocks, blocks), nesterov)
            own = torch.linalg.vector_norm(update).square() * factor**2
            squares[layout.split] = squares.get(layout.split, torch.zeros(())) + own
            count += sum(parameter.numel() for _, parameter in members)
            for (_, parameter), part in zip(members, self._parts(members, update), strict=True):
                local(parameter).mul_(1 - lr * self.weight_decay).add_(part, alpha=-lr * factor)
        whole = sum((total(part, split) for split, part in squares.items()), torch.zeros(()))
        if self.stages:
            both = torch.stack([whole, torch.full_like(whole, count)]).double()
            all_reduce(both, dist.ReduceOp.SUM, self.stages)
            return (both[0] / both[1]).sqrt()
        return (whole / max(count, 1)).sqrt()

    def momenta(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter's momentum, as a view in the parameter's shape and spread like it."""
        for group, members in self.groups.items():
            for (name, parameter), part in zip(members, self._parts(members, self.buffers[group]), strict=True):
                yield name, like(part, parameter)

    @staticmethod
    def _parts(members: list[tuple[str, nn.Parameter]], stacked: Tensor) -> list[Tensor]:
        shapes = [local(parameter).shape for _, parameter in members]
        parts = stacked.split([shape[:-2].numel() for shape in shapes])
        return [part.view(shape) for shape, part in zip(shapes, parts, strict=True)]


def _orthogonalize_blocks(blocks: int, matrices_BMN: Tensor) -> Tensor:
    return orthogonalize(matrices_BMN.unflatten(1, (blocks, -1)).flatten(0, 1)).reshape(matrices_BMN.shape)


def _gradient(name: str, parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ValueError(f"no gradient for {name}: call backward() before step()")
    return parameter.grad


def _matrices(tensor: Tensor) -> Tensor:
    """This process's part of `tensor` as [batch, rows, columns]."""
    part = local(tensor)
    return part.reshape(part.shape[:-2].numel(), *part.shape[-2:])
