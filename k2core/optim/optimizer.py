"""What a training needs of its optimiser, and the section of the recipe that chooses one.

A new optimiser is a file in `k2core/optim/kinds/`: a subclass of `OptimizerConfig` named `Config`, whose `build`
returns an `Optimizer`. The section's key `kind` names the file.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import Field

from k2core.recipe import RecipeError, Section, did_you_mean, modules_in

if TYPE_CHECKING:
    from torch import Tensor

    from k2core.model.transformer import Transformer

KIND = "muonclip"


class Optimizer(Protocol):
    """The optimiser of a whole model, which must be sharded before, if at all.

    Attributes:
        lr: its learning rate at multiplier 1; of several, that of the matrices.
    """

    lr: float

    def zero_grad(self, logged: bool = True) -> None:
        """Forget the gradients, and what the model counted along with them.

        Args:
            logged: what the coming step observes is logged; else it may observe no more than the update needs.
        """
        ...

    def gradient_norm(self) -> float:
        """The global norm of the gradient, before any clipping."""
        ...

    def step(self, lr_scale: float, norm: float | None = None) -> dict[str, float]:
        """One update at `lr_scale` times its rates; figures to log, under names that are the same at every step.

        Args:
            norm: `gradient_norm()`, if it is known already.

        Raises:
            FloatingPointError: a gradient is not finite; nothing has been touched.
        """
        ...

    def detail(self) -> dict[str, Tensor]:
        """What `training/per_head_log.py` records of the last step; empty where the optimiser observes nothing.

        `max_logit` and `gamma` (layers, heads), `load` and `bias` (layers with experts, experts).
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """All state by name, sharded like the parameters: the live tensors."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of what `state` gives."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned, sharded in the same way.

        Raises:
            ValueError: names or shapes are not this optimiser's.
        """
        ...

    def reset_state(self) -> None:
        """Forget all that earlier steps have left."""
        ...


class OptimizerConfig(Section):
    """Section `optimizer`: the parameters of the optimiser that its key `kind` names."""

    kind: str = Field(default=KIND, description="file of k2core/optim/kinds; muonclip by default")

    @classmethod
    def for_value(cls, value: dict[str, Any]) -> type[OptimizerConfig]:
        if cls is not OptimizerConfig:
            return cls
        kinds, kind = modules_in("k2core.optim.kinds"), str(value.get("kind", KIND))
        if kind not in kinds:
            raise RecipeError(f"no optimiser {kind}{did_you_mean(kind, kinds)}; there are: {', '.join(kinds)}")
        return kinds[kind].Config

    @abstractmethod
    def build(self, model: Transformer) -> Optimizer:
        """The optimiser of `model` with these parameters and no past."""

    @abstractmethod
    def with_rates(self, matrices: float, others: float) -> Self:
        """The same with other learning rates: of the matrices, and of embedding, head and norms."""
