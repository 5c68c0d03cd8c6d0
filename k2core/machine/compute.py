"""The section of the recipe that says on what, and how, to compute."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from k2core.machine.device import Backend, Device, choose
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
        "torch; cpu: the kernels in C, which must then be there"
    )
    precision: Literal["fp32", "bf16"] = Field(description="type of weights and activations")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.backend == "cuda":
            raise ValueError("backend cuda is not there yet; set it to auto, which runs on a GPU as plain torch")
        if self.precision == "bf16":
            raise ValueError("precision bf16 is not there yet; set it to fp32")
        return self

    def apply(self) -> None:
        """Set up torch for reproducible work: device, thread count, deterministic kernels, seed.

        Raises:
            RecipeError: this machine has no such device.
        """
        import torch

        choose(self.device, self.backend)
        keep_freed_memory()
        torch.set_num_threads(max(1, self.threads // local_world()))
        # As use_deterministic_algorithms, which also imports the compiler: 2 s where nothing else does.
        torch.set_deterministic_debug_mode("error")
        # What `empty` gives is written before it is read; filling it first would be a pass over memory for each result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(self.seed)
