"""The section of the recipe that says on what, and how, to compute."""

from __future__ import annotations

import os

from pydantic import Field

from k2core.machine.device import Backend, Device, Precision, choose
from k2core.machine.memory import keep_freed_memory
from k2core.machine.processes import local_world
from k2core.recipe.section import Section


class Compute(Section):
    """Section `compute`. All of it changes the rounding of results, so it is part of the recipe."""

    threads: int = Field(
        ge=1, description="CPU threads of every torch stage, its processes together, and of the embedded LLM"
    )
    seed: int = Field(ge=0, description="seed that every stage derives its own random streams from")
    device: Device = Field(description="device of every torch stage; auto: a GPU where torch finds one, else the CPU")
    backend: Backend = Field(
        description="backend of the operations of k2core.ops; auto: the fastest on the device; reference: plain "
        "torch; cpu: the kernels in C, which must then be there; cuda: FlexAttention and grouped products"
    )
    precision: Precision = Field(
        description="type of activations and products; weights and optimiser are fp32, as are router, norms and loss"
    )

    def apply(self) -> None:
        """Set up torch for reproducible work: device, thread count, deterministic kernels, seed.

        Raises:
            RecipeError: this machine has no such device, or the backend is not for it.
        """
        # OpenMP reads it when torch loads. A thread that spins while it waits keeps its core from other work and from
        # its own siblings: on a busy machine a training became many times slower; alone it is as fast.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ between two runs
        choose(self.device, self.backend, self.precision)
        keep_freed_memory()
        torch.set_num_threads(max(1, self.threads // local_world()))
        # As use_deterministic_algorithms, which also imports the compiler: 2 s where nothing else does.
        torch.set_deterministic_debug_mode("error")
        # What `empty` gives is written before it is read; filling it first would be a pass over memory for each result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(self.seed)
