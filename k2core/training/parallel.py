"""One model over several processes: FSDP2, expert parallelism for the routed experts, recomputation (K2 §2.4).

    mesh = init_device_mesh(device, (processes,))
    compile_layers(model)               # optional, as the two that follow
    recompute_activations(model)
    shard_experts(model, mesh)
    shard(model, mesh)                  # after the three
    optimizer = config.build(model)

Every process starts from the same seed or weights and runs its own share of each batch; the optimiser's `step` then
does what one process with the whole batch would. Gradients are averaged over the mesh: the loss of a process is the
mean over its targets where all have as many, else their sum · processes / targets of the global batch. Processes that
share rows (`context_parallel.py`) are members of the mesh of `shard` like others. `ranks.py` makes the meshes.

Run on CPU with gloo, in 2 and 4 processes, and compared with one process (tests/optim/test_sharded.py,
tests/training/test_mesh.py); never run on GPUs with NCCL. Pipelines are in `pipeline.py`; docs/parallel.md says what
this mesh means at K2's size.

Shapes: N tokens, D hidden width, E experts per process, K experts per token, M visits of tokens to experts, P
processes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor, all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

from k2core import ops
from k2core.machine.compiler import compiled
from k2core.model.counts import cut_axis
from k2core.model.experts import Experts, MixtureOfExperts
from k2core.model.transformer import Transformer
from k2core.optim.sharding import local


def shard(model: Transformer, mesh: DeviceMesh) -> None:
    """FSDP2, one unit per layer: parameters, gradients and optimiser state are split along `cut_axis`.

    Over a mesh of two named axes the parameters are copied along the first one (hybrid sharding). Both axes then count
    as data: for context parallelism pass the one-axis mesh of all processes.

    Weights stay fp32 and gradients are summed in fp32, but processes exchange weights in the type that they multiply
    in: with bf16 half as many bytes. Norms' and routers' weights, which one process takes in fp32, are rounded too.
    """
    policy = _policy(model)
    spread = {p for m in model.modules() if isinstance(m, ParallelExperts) for p in m.parameters()}
    ranks = mesh.size(-1)

    def cut(parameter: nn.Parameter) -> Shard:
        return Shard(cut_axis(tuple(parameter.shape), ranks))

    pieces = model.pipeline.pieces.values() if model.pipeline else [model]
    for unit in (*model.blocks(), *pieces):
        # A pipeline gathers a stage's weights once per step; embedding and head are needed until the pass ends.
        fully_shard(
            unit, mesh=mesh, ignored_params=spread, shard_placement_fn=cut, mp_policy=policy,
            reshard_after_forward=unit is not model and not model.pipeline,
        )  # fmt: skip


def _policy(model: Transformer) -> MixedPrecisionPolicy:
    """Inputs are not cast: the rotation is fp32."""
    return MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)


def compile_layers(model: Transformer, **options: Any) -> None:
    """Compile each layer's forward for training; layers of a kind share the code.

    Without gradient it stays as it is: the many shapes of measuring would each compile, or make the code of training
    one for any shape.

    Args:
        options: of `torch.compile`.
    """
    for layer in model.layers.children():
        layer.forward = partial(_either, layer.forward, compiled(layer.forward, **options))


def _either(plain: Callable[..., Tensor], training: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return (training if torch.is_grad_enabled() else plain)(*inputs)


def recompute_activations(model: Transformer) -> None:
    """Keep only each layer's input and run the layer again in the backward pass: same gradients, a third more work.

    K2 recomputes selected operations instead (§2.4). The exchanges of `shard_experts` and `shard_context` are repeated,
    those of `shard` are not.
    """
    for layer in model.layers.children():
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def shard_experts(model: Transformer, mesh: DeviceMesh, copies: DeviceMesh | None = None) -> None:
    """Expert parallelism over the processes of the one-axis `mesh`: each holds an equal number of each layer's experts.

    Args:
        copies: the processes with the same experts as this one, an axis of the same mesh, if there are others: FSDP2
            cuts the rows of the experts' matrices over them (along the second of two axes; copies along the first).

    Raises:
        ValueError: the experts cannot be shared out equally.
    """
    experts, processes = model.config.n_routed_experts, mesh.size()
    if mesh.ndim != 1 or experts % processes:
        raise ValueError(f"{experts} routed experts cannot be shared out equally over a mesh of shape {mesh.shape}")
    for module in list(model.modules()):
        if isinstance(module, MixtureOfExperts):
            module.experts = ParallelExperts(module.experts, mesh)
            if copies is not None:
                fully_shard(
                    module.experts, mesh=copies, shard_placement_fn=lambda p: Shard(p.ndim - 2),
                    mp_policy=_policy(model), reshard_after_forward=not model.pipeline,
                )  # fmt: skip


class _Averaged(torch.autograd.Function):
    """A weight whose gradient sums over the losses of `processes` processes, of which the batch's is the mean."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, processes: int) -> Tensor:
        ctx.processes = processes
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.processes, None


class _Arrived(torch.autograd.Function):
    """What an exchange that was started has brought, as the plain tensor that the kernels in C take."""

    @staticmethod
    def forward(ctx: Any, exchanged: Tensor) -> Tensor:
        return exchanged.trigger_wait() if isinstance(exchanged, AsyncCollectiveTensor) else exchanged

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class ParallelExperts(Experts):
    """`Experts` of which this process holds some; tokens travel to their experts and back by all-to-all.

    Same parameter names and global shapes. No token is dropped, so a process must have room for all tokens of its
    group of processes in the worst case.
    """

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        nn.Module.__init__(self)
        self.mesh = mesh
        for name, parameter in experts.named_parameters():
            self.register_parameter(name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))

    def forward(
        self, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor, beside: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """As of `Experts`; a collective of the group. `beside` is computed while tokens travel to their experts."""
        processes, group = self.mesh.size(), self.mesh.get_group()
        chosen = experts_NK.flatten()
        order = chosen.argsort(stable=True)  # (token, choice) pairs, expert by expert and so process by process
        tokens = order // experts_NK.shape[1]
        counts_PE = torch.bincount(chosen, minlength=len(self.down_proj)).view(processes, -1)
        arriving_PE = torch.empty_like(counts_PE)  # from each process, for each expert of this one
        dist.all_to_all_single(arriving_PE, counts_PE, group=group)
        sent, arriving = counts_PE.sum(dim=1).tolist(), arriving_PE.sum(dim=1).tolist()
        arrived_MD = all_to_all_single_autograd(x_ND.index_select(0, tokens), arriving, sent, group)
        beside_ND = beside(x_ND)  # before anything reads what arrives, which would wait for it
        arrived_MD = _Arrived.apply(arrived_MD)
        own_E = torch.arange(counts_PE.shape[1], device=x_ND.device)
        experts_M1 = own_E.repeat(processes).repeat_interleave(arriving_PE.flatten()).unsqueeze(1)
        ones_M1 = x_ND.new_ones(experts_M1.shape)
        own = (_Averaged.apply(local(weight), processes) for weight in (self.gate_up_proj, self.down_proj))
        out_MD = ops.routed_experts(arrived_MD, experts_M1, ones_M1, *own)
        returned_MD = all_to_all_single_autograd(out_MD, sent, arriving, group)
        weighted_MD = returned_MD * weights_NK.flatten().index_select(0, order).unsqueeze(1).to(x_ND.dtype)
        return torch.zeros_like(x_ND).index_add(0, tokens, weighted_MD) + beside_ND
