"""The processes that train one model together, seen from one of them.

They form a mesh of data × context: ranks of a context group share each row, every other rank has rows of its own.
Parameters are spread over all of them by FSDP2, experts too if the recipe says so. One process leaves the model whole.

Run on CPU with gloo in 1, 2 and 4 processes (tests/training/test_ranks.py); the GPU path has not been run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from k2core.data.rows.batch import Batch
from k2core.machine.device import here
from k2core.model.transformer import Transformer
from k2core.training.config import ParallelConfig

TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another one; the first evaluation and the last gathering take longest."""


@dataclass(frozen=True)
class Ranks:
    """This process's place.

    Attributes:
        world: processes; `rank` is this one's number.
        context: processes of a context group; neighbours in rank.
    """

    world: int = 1
    rank: int = 0
    context: int = 1
    device: torch.device = field(default_factory=here)

    def rows(self, count: int) -> range:
        """Which of a step's `count` rows are this process's (all of a context group have the same).

        Raises:
            ValueError: they cannot be shared out equally.
        """
        groups = self.world // self.context
        if count % groups:
            raise ValueError(f"{count} rows per step cannot be shared out over {groups} data-parallel groups equally")
        each, group = count // groups, self.rank // self.context
        return range(group * each, (group + 1) * each)

    def part(self, batch: Batch) -> Batch:
        """This process's part of rows that its context group has been given, on its device."""
        if self.context > 1:
            from k2core.training.context_parallel import split_context

            batch = split_context(batch, self.rank % self.context, self.context)
        return batch.to(self.device)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes, in one message."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def spread(self, model: Transformer, config: ParallelConfig) -> None:
        """Move `model` to its device and share it out, in place."""
        from torch.distributed.device_mesh import init_device_mesh

        from k2core.training.parallel import compile_layers, recompute_activations, shard, shard_experts

        model.to(self.device)
        # The compiler takes no grouped products in fp32.
        if self.device.type == "cuda" and model.dtype == torch.bfloat16:
            compile_layers(model)
        if config.recompute:
            recompute_activations(model)
        if self.world == 1:
            return
        mesh = init_device_mesh(
            self.device.type, (self.world // self.context, self.context), mesh_dim_names=("data", "context")
        )
        everyone = mesh["data", "context"]._flatten("ranks")
        if self.context > 1:
            from k2core.training.context_parallel import shard_context

            shard_context(model, mesh["context"])
        if config.expert_parallel:
            shard_experts(model, everyone)
        shard(model, everyone)

    def whole_rows(self, model: Transformer) -> Callable[..., Tensor]:
        """`model` as a function of whole rows on the CPU, for measuring; every process must call it alike."""
        from torch.distributed.fsdp import FSDPModule

        from k2core.training.context_parallel import whole_rows

        def logits(*inputs: Tensor, **named: Tensor) -> Tensor:
            with whole_rows(model):
                result = model.on_cpu(*inputs, **named)
            if isinstance(model, FSDPModule):  # without a backward pass its outer weights would stay gathered
                model.reshard()
            return result

        return logits


@contextmanager
def joined(config: ParallelConfig) -> Iterator[Ranks]:
    """Within the block, this process is one of `config.processes` (torchrun says which): NCCL on GPUs, gloo on CPUs."""
    if config.processes == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if here().type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_world_size(), dist.get_rank(), config.context)
        dist.barrier()
    finally:
        dist.destroy_process_group()
