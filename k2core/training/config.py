"""How a training is spread over processes, as parameters (what it does: `ranks.py`)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError, model_validator

from k2core.machine import Processes


class ParallelConfig(Processes):
    """Section `parallel`: how many processes train a model, and how the work is shared out."""

    context: int = Field(ge=1, description="processes that share each row (context parallelism)")
    experts: int = Field(
        ge=1, description="processes that share the routed experts out, neighbours in rank; 1: FSDP2 cuts them"
    )
    replicas: int = Field(ge=1, description="copies of all weights, gradients and optimiser state (hybrid sharding)")
    pipeline: int = Field(ge=1, description="stages that the layers are cut into")
    virtual: int = Field(ge=1, description="pieces of the model on each stage of a pipeline (interleaved 1F1B)")
    micro_batch_tokens: int = Field(
        ge=1, description="tokens that a process handles at once, at least one row; gradients of more are accumulated"
    )
    recompute: bool = Field(description="recompute activations in the backward pass, one layer at a time")
    stages: dict[str, dict[str, int | bool]] = Field(
        default_factory=dict,
        description="what differs in a stage, by its name in dvc.yaml: keys above but the first two",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for names in (("context",), ("pipeline", "replicas", "context"), ("pipeline", "replicas", "experts")):
            number = 1
            for name in names:
                number *= getattr(self, name)
            if self.processes % number:
                words = " × ".join(f"{name} {getattr(self, name)}" for name in names)
                raise ValueError(f"processes {self.processes} is not a multiple of {words}")
        if self.virtual > 1 and self.pipeline == 1:
            raise ValueError(f"virtual {self.virtual} needs a pipeline; set pipeline above 1 or virtual to 1")
        for stage, changes in self.stages.items():
            if fixed := changes.keys() & {*Processes.model_fields, "stages"}:
                raise ValueError(f"stages.{stage}: {min(fixed)} is the same for all stages; take it out")
            try:
                self.of(stage)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, ("stages", stage, *first["loc"])))
                raise ValueError(f"{where}: {first['msg']}") from None
        return self

    def of(self, stage: str) -> ParallelConfig:
        """The mesh of one stage, by its name in dvc.yaml."""
        return ParallelConfig.model_validate(self.model_dump(exclude={"stages"}) | self.stages.get(stage, {}))

    @property
    def at_once(self) -> int | None:
        """Tokens that fine-tuning handles at once; None: a process alone takes all rows of a step."""
        return self.micro_batch_tokens if self.processes > 1 else None

    @property
    def stage(self) -> int:
        """Processes of a pipeline stage, which have rows of their own but for those that share them."""
        return self.processes // self.pipeline

    @property
    def shards(self) -> int:
        """Processes that a parameter is cut over."""
        return self.stage // self.replicas

    @property
    def copies(self) -> int:
        """Of those, the ones with the same experts."""
        return self.shards // self.experts

    @property
    def groups(self) -> int:
        """Groups of processes with rows of their own."""
        return self.stage // self.context
