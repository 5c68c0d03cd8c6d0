"""The part of the recipe that says how the machine is used."""

from __future__ import annotations

from pydantic import Field

from k2core.machine.memory import keep_freed_memory
from k2core.machine.processes import local_world
from k2core.recipe.section import Section


class Compute(Section):
    """Section `compute`. Thread counts change the order of floating-point sums, so they are part of the recipe."""

    threads: int = Field(
        ge=1, description="CPU threads of every torch stage, its processes together, and of the embedded LLM"
    )
    seed: int = Field(ge=0, description="seed that every stage derives its own random streams from")

    def apply(self) -> None:
        """Set up torch for reproducible work: thread count, deterministic kernels, seed."""
        import torch

        keep_freed_memory()
        torch.set_num_threads(max(1, self.threads // local_world()))
        # As use_deterministic_algorithms, which also imports the compiler: 2 s where nothing else does.
        torch.set_deterministic_debug_mode("error")
        # What `empty` gives is written before it is read; filling it first would be a pass over memory for each result.
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.manual_seed(self.seed)
