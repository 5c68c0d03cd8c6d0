"""The part of the recipe that says how the machine is used."""

from pydantic import Field

from k2core.recipe.section import Section


class Compute(Section):
    """Section `compute`. Thread counts change the order of floating-point sums, so they are part of the recipe."""

    threads: int = Field(ge=1, description="CPU threads of every torch stage and of the embedded LLM")
    seed: int = Field(ge=0, description="seed that every stage derives its own random streams from")

    def apply(self) -> None:
        """Set up torch for reproducible work: thread count, deterministic kernels, seed."""
        import torch

        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(self.seed)
