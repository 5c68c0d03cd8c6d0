"""Several gloo processes for a test."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = [
    "pytest",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "k2core.training.parallel",
    "k2core.optim.muonclip",
]
multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)


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
