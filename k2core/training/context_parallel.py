"""Context parallelism: P processes share each row, for contexts whose activations do not fit into one (K2's 32k phase).

    mesh = init_device_mesh(device, (processes // P, P), mesh_dim_names=("data", "context"))
    shard_context(model, mesh["context"])
    part = split_context(batch, mesh.get_local_rank("context"), P)  # the same batch in all of a context group

Each process computes the queries of its own columns. Per layer the processes exchange what decoding would cache of
their tokens (`ModelConfig.cache_width` numbers each: 576 with K2's MLA, where whole keys and values would be 20,480)
and expand keys and values of the row for themselves; gradients come back by reduce-scatter. A row is cut into 2·P
chunks of which process r has number r and number 2·P - 1 - r, so that all have the same number of causal pairs
(Llama 3, arXiv 2407.21783 §3.3.2, which gathers keys and values likewise; Megatron-LM and PyTorch cut rows so too).

Everything else sees tokens: `shard` and `shard_experts` take the one-axis mesh of all processes, and gradients are
averaged over it, so each loss must be its targets' sum · processes / targets of the global batch: processes have
different numbers of targets, perhaps none. Run on CPU with gloo (tests/training/test_context_parallel.py), not on GPUs.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh

from k2core.data.rows.batch import Batch
from k2core.model.transformer import Transformer
from k2core.model.visibility import WholeRows

_all_gather: Callable[..., Tensor] = (
    getattr(collectives, "all_gather_single_autograd", None) or collectives.all_gather_tensor_autograd
)
"""Its name since torch 2.13, or that before, which later ones warn of."""


def split_context(batch: Batch, rank: int, ranks: int) -> Batch:
    """The columns of `batch` that process `rank` of the `ranks` that share its rows works on: [B, T / ranks].

    Raises:
        ValueError: the rows cannot be cut into 2·`ranks` equal chunks.
    """
    T = batch.tokens_BT.shape[1]
    if T % (2 * ranks):
        raise ValueError(
            f"rows of {T} tokens cannot be shared by {ranks} processes: make the context length a multiple of "
            f"{2 * ranks}"
        )
    runs = [slice(offset, offset + length) for offset, length in _chunks(T // ranks, rank, ranks)]
    fields = (batch.tokens_BT, batch.targets_BT, batch.positions_BT, batch.segments_BT)
    return Batch(*(torch.cat([field[:, run] for run in runs], dim=1) for field in fields))


def shard_context(model: Transformer, mesh: DeviceMesh) -> None:
    """From now on forward passes take what `split_context` returns; a collective of the one-axis `mesh`.

    Raises:
        ValueError: `mesh` has several axes.
    """
    if mesh.ndim != 1:
        raise ValueError(f"rows are shared over one axis, but the mesh has shape {mesh.shape}: pass mesh['context']")
    model.rows = SharedRows(mesh.get_group(), mesh.get_local_rank(), mesh.size())


@contextmanager
def whole_rows(model: Transformer) -> Iterator[None]:
    """Within the block, forward passes take whole rows, without any exchange: evaluation, generation."""
    shared, model.rows = model.rows, WholeRows()
    try:
        yield
    finally:
        model.rows = shared


class SharedRows(WholeRows):
    """The process, number r of P in `group`, has chunks r and 2·P - 1 - r of each row's 2·P; S = P·T."""

    def __init__(self, group: dist.ProcessGroup, rank: int, ranks: int) -> None:
        self.group, self.rank, self.ranks = group, rank, ranks

    def runs(self, T: int) -> list[tuple[int, int]]:
        return _chunks(T, self.rank, self.ranks)

    def gather(self, part: Tensor) -> Tensor:
        by_rank = _all_gather(part.contiguous(), 0, self.group).unflatten(0, (self.ranks, len(part)))
        early, late = by_rank.chunk(2, dim=2)  # each [P, B, T / 2, …]; the late ones run from the row's end
        return torch.cat([early, late.flip(0)]).transpose(0, 1).flatten(1, 2)


def _chunks(T: int, rank: int, ranks: int) -> list[tuple[int, int]]:
    """`(offset, length)` of the two chunks that make up the T columns of `rank`."""
    length = T // 2
    return [(rank * length, length), ((2 * ranks - 1 - rank) * length, length)]
