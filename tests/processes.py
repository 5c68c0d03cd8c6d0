"""Several gloo processes for a test, and a model whose parts they can share."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from k2core.model.config import ModelConfig
from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.sharding import local
from k2core.training.config import ParallelConfig

PRELOADED = [
    "pytest",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "k2core.training.parallel",
    "k2core.optim.muonclip",
]
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)

HEADS = 3
"""The 12 query rows of a head lie on two processes, whether there are 2 (18 rows each) or 4 (9 rows each)."""
SHAPE = ModelConfig(
    attention="mla", vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3,
    num_attention_heads=HEADS, q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
    n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
    routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=None, max_position_embeddings=64,
    rms_norm_eps=1e-6, initializer_range=0.2,
)  # fmt: skip
CONFIG = MuonClipConfig(
    muon_lr=0.01, adamw_lr=0.01, momentum=0.95, weight_decay=0.1, adamw_beta1=0.9, adamw_beta2=0.95, adamw_eps=1e-8,
    max_grad_norm=1.0, qk_clip_threshold=0.5, router_bias_rate=0.01,
)  # fmt: skip


def sharing(processes: int, **sizes: Any) -> ParallelConfig:
    """Section `parallel` for so many processes, each with rows of its own and all of the model but for `sizes`."""
    values: dict[str, Any] = {"context": 1, "experts": 1, "replicas": 1, "pipeline": 1, "virtual": 1}
    return ParallelConfig(**{"processes": processes, "launcher": "", "recompute": False} | values | sizes)


def everything(tensors: Mapping[str, Tensor], stages: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """The full values of `tensors`, with those of the processes that have the other layers (`stages`); a collective."""
    own = {name: whole(tensor).clone() for name, tensor in tensors.items()}
    if stages is None:
        return own
    found: list[dict[str, Tensor]] = [{}] * stages.size()
    dist.all_gather_object(found, own, stages)
    return {name: tensor for part in found for name, tensor in part.items()}


class Kept:
    """Bytes that autograd keeps of a model's layers, but for its weights; each piece of memory counts once."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}  # which hold the memory, so that no other takes its address

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._kept.values())

    @contextmanager
    def of(self, model: Transformer) -> Iterator[None]:
        """Within the block, what the layers of `model` keep is counted."""

        def pack(tensor: Tensor) -> Tensor:
            weights = {local(parameter).untyped_storage().data_ptr() for parameter in model.parameters()}
            own = getattr(tensor, "elem", tensor)  # of an exchange that has been started
            where = own.untyped_storage().data_ptr()
            if where not in weights:
                self._kept[where] = own
            return tensor

        def counted(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                return forward(*inputs)

        for layer in model.blocks():
            layer.forward = partial(counted, layer.forward)  # type: ignore[method-assign]
        yield
        for layer in model.blocks():
            layer.forward = layer.forward.args[0]  # type: ignore[attr-defined, method-assign]


def run(processes: int, scenario: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `scenario(rank, processes, *arguments)` returned on each of `processes` gloo processes."""
    torch.multiprocessing.start_processes(
        _process, (processes, scenario, folder, arguments), nprocs=processes, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(processes)]


def _process(rank: int, processes: int, scenario: Callable[..., Any], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'init'}", rank=rank, world_size=processes)
    torch.save(scenario(rank, processes, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()
