"""How pre-training is spread over processes, as parameters (what it does: `ranks.py`)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from k2core.machine import Processes


class ParallelConfig(Processes):
    """Section `parallel`: how many processes run pre-training, and how the work is shared out."""

    context: int = Field(ge=1, description="processes that share each row (context parallelism)")
    expert_parallel: bool = Field(description="share the routed experts out over all processes instead of FSDP2")
    micro_batch_tokens: int = Field(
        ge=1, description="tokens that a process handles at once, at least one row; gradients of more are accumulated"
    )
    recompute: bool = Field(description="recompute activations in the backward pass, one layer at a time")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.processes % self.context:
            raise ValueError(f"processes {self.processes} is not a multiple of context {self.context}")
        return self
