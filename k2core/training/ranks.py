"""The processes that train one model together, seen from one of them.

They form a mesh of replicas × shards: a parameter is cut over the shards by FSDP2, and each replica has all of it. The
same processes form groups that share rows (context) and groups that share the routed experts out, which are parts of
the shards; every process, but for those that share rows, has rows of its own. One process leaves the model whole.

Run on CPU with gloo in 1, 2, 4 and 8 processes (tests/training/test_mesh.py); the GPU path has not been run.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.machine.device import here
from k2core.model.config import ModelConfig, YarnConfig
from k2core.model.files import WEIGHTS, drawn, load_model, load_tensors, read_config
from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.training.config import ParallelConfig
from k2core.training.dividing import check_model, rows_each
from k2core.training.loss import batch_nll

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Part = TypeVar("Part")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another one; the first evaluation and the last gathering take longest."""


@dataclass(frozen=True)
class Ranks:
    """This process's place.

    Attributes:
        world: processes; `rank` is this one's number.
        context: processes of a context group; neighbours in rank.
        pipeline: stages of the pipeline, each of as many processes, neighbours in rank.
    """

    world: int = 1
    rank: int = 0
    context: int = 1
    pipeline: int = 1
    device: torch.device = field(default_factory=here)

    @property
    def groups(self) -> int:
        """Groups of processes with rows of their own; one that shares rows, or is of one pipeline, is one group."""
        return self.world // self.pipeline // self.context

    @property
    def group(self) -> int:
        """Number of this process's group."""
        return self.rank % (self.world // self.pipeline) // self.context

    @property
    def reports(self) -> bool:
        """Whether this process speaks for those that share its rows."""
        return self.rank % self.context == 0

    def columns(self, width: int) -> int:
        """The least number of columns, `width` or more, that the processes that share a row can cut."""
        return width + (-width % (2 * self.context) if self.context > 1 else 0)

    def rows(self, count: int) -> range:
        """Which of a step's `count` rows are this process's (those of a context group and all stages have the same).

        Raises:
            DoesNotDivide: they cannot be shared out equally.
        """
        each = rows_each(count, self.groups)
        return range(self.group * each, (self.group + 1) * each)

    def part(self, batch: Batch) -> Batch:
        """This process's part of rows that its context group has been given, on its device."""
        if self.context > 1:
            from k2core.training.context_parallel import split_context

            batch = split_context(batch, self.rank % self.context, self.context)
        return batch.to(self.device)

    def targets(self, batches: Sequence[Batch]) -> int:
        """Targets of this process's parts of a step, to be summed over all: only a pipeline's first stage has any."""
        if self.rank >= self.world // self.pipeline:
            return 0
        return sum(int((batch.targets_BT != IGNORE).sum()) for batch in batches)

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes, in one message."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def dealt(self, parts: Sequence[Part]) -> Iterator[tuple[Part, bool]]:
        """This group's parts of a step, and whether each counts.

        All groups get as many, since a pass through a model that is spread is a collective: where there are none left,
        the first one is repeated and does not count.
        """
        for start in range(0, len(parts), self.groups):
            number = start + self.group
            yield (parts[number], True) if number < len(parts) else (parts[0], False)

    def backward(self, model: Transformer, batches: Sequence[Batch], targets: float, weight: float = 1.0) -> float:
        """Add the gradients of this process's parts of a step's micro-batches; returns the sum of its losses in nats.

        Of a pipeline, only the last stage has losses.

        Args:
            targets: of the step, in all processes.
            weight: of these gradients.
        """
        # FSDP2 averages over processes, so each has its part of the global mean times their number.
        losses, scale = list[Tensor](), weight * self.world / self.pipeline / targets
        if model.pipeline:
            return model.pipeline.backward(batches, scale)
        for batch in batches:
            nll = batch_nll(model, batch)
            (nll * scale).backward()
            losses.append(nll.detach())  # not looked at yet: the host would wait for each pass before the next
        return sum(map(float, losses))

    def spread(self, model: Transformer, config: ParallelConfig) -> None:
        """Move `model` to its device and share it out, in place."""
        from torch.distributed.device_mesh import init_device_mesh

        from k2core.training.parallel import compile_layers, recompute_activations, shard, shard_experts

        if model.device.type != "meta":
            model.to(self.device)
        # The compiler takes no grouped products in fp32.
        if self.device.type == "cuda" and model.dtype == torch.bfloat16:
            compile_layers(model)
        if config.recompute:
            recompute_activations(model)
        if self.world == 1:
            return
        check_model(config, model.config)

        def mesh(*axes: tuple[str, int]) -> DeviceMesh:
            """All processes along these axes, neighbours in rank along the last one."""
            names, sizes = zip(*axes, strict=True)
            return init_device_mesh(self.device.type, sizes, mesh_dim_names=names)

        if config.pipeline > 1:
            from k2core.training.pipeline import cut

            cut(model, mesh(("pipeline", config.pipeline), ("stage", config.stage))["pipeline"], config.virtual)
        if config.context > 1:
            from k2core.training.context_parallel import shard_context

            shard_context(
                model, mesh(("data", config.processes // config.context), ("context", config.context))["context"]
            )
        stages = ("stages", config.pipeline)
        copies = ("replicas",) if config.replicas > 1 else ()
        if config.experts > 1:
            axes = mesh(stages, ("replicas", config.replicas), ("copies", config.copies), ("experts", config.experts))
            shard_experts(model, axes["experts"], axes[(*copies, "copies")] if copies or config.copies > 1 else None)
        shard(model, mesh(stages, ("replicas", config.replicas), ("shards", config.shards))[(*copies, "shards")])

    def fresh(self, model: ModelConfig, config: ParallelConfig) -> Transformer:
        """A model with fresh weights, spread; each process keeps its own parts only, the same numbers on every mesh."""
        if self.world == 1:
            network = Transformer(model)
            self.spread(network, config)
            return network
        from k2core.model.fresh import FreshWeights

        with torch.device("meta"):
            network = Transformer(model)
        weights = FreshWeights(network)
        self.spread(network, config)
        network.allocate(self.device)
        weights.fill(network)
        return network

    def load(
        self, folder: Path, config: ParallelConfig, rope_scaling: YarnConfig | Literal["keep"] | None = "keep"
    ) -> Transformer:
        """The model in `folder`, spread; each process reads its own parts only.

        Raises:
            StorageError, RecipeError: as of `load_model`.
        """
        if self.world == 1:
            model = load_model(folder, rope_scaling)
            self.spread(model, config)
            return model
        with torch.device("meta"):
            model = Transformer(read_config(folder, rope_scaling))
        self.spread(model, config)
        model.allocate(self.device)
        load_tensors(dict(model.state_dict()), folder / WEIGHTS)
        return model

    def whole(self, model: Transformer) -> Transformer:
        """The model that is spread, to sample from: itself, if there is one process, else a copy."""
        if self.world == 1:
            return model
        copy = drawn(model.config).to(self.device)
        self.refresh(copy, model)
        return copy

    def refresh(self, sampler: Transformer, model: Transformer) -> None:
        """Give what `whole` has made the present weights of `model`; all processes must call it.

        Tensor by tensor: its stage gathers it, and the other stages of a pipeline receive it.
        """
        if self.world == 1:
            return
        own, stages = model.state_dict(), model.stages
        named: list[list[str]] = [list(own)]
        if stages:
            named *= stages.size()
            dist.all_gather_object(named, list(own), stages)
        holders = {name: stage for stage, names in enumerate(named) for name in names}
        with torch.no_grad():
            for name, tensor in sampler.state_dict().items():
                if name in own:
                    tensor.copy_(whole(own[name]))
                if stages:
                    dist.broadcast(tensor, group=stages, group_src=holders[name])

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
        yield Ranks(dist.get_world_size(), dist.get_rank(), config.context, config.pipeline)
        dist.barrier()
    finally:
        dist.destroy_process_group()
