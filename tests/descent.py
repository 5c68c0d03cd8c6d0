"""Plain gradient descent: an optimiser as a user would add it, one file in `k2core/optim/kinds/`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from k2core.optim.optimizer import OptimizerConfig

if TYPE_CHECKING:
    from torch import Tensor

    from k2core.model.transformer import Transformer


class Config(OptimizerConfig):
    """Section `optimizer` with `kind: descent`."""

    lr: float = Field(gt=0, description="learning rate of all parameters")

    def build(self, model: Transformer) -> Descent:
        return Descent(model, self.lr)

    def with_rates(self, matrices: float, others: float) -> Self:
        return self.model_copy(update={"lr": matrices})


class Descent:
    def __init__(self, model: Transformer, lr: float) -> None:
        self.parameters, self.lr = dict(model.named_parameters()), lr

    def zero_grad(self, logged: bool = True) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def gradient_norm(self) -> float:
        import torch

        found = (parameter.grad for parameter in self.parameters.values())
        return float(torch.nn.utils.get_total_norm([gradient for gradient in found if gradient is not None]))

    def step(self, lr_scale: float, norm: float | None = None) -> dict[str, float]:
        import torch

        with torch.no_grad():
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-self.lr * lr_scale)
        return {}

    def detail(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if state:
            raise ValueError(f"not the state of gradient descent: {next(iter(state))}")

    def reset_state(self) -> None:
        pass
