"""The optimiser's state beside a model: from one phase to the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2core.storage import StorageError

if TYPE_CHECKING:
    from k2core.optim.optimizer import Optimizer

OPTIMIZER = "optimizer.safetensors"


def save_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Write the state beside a model, as `save_model` does; of several processes all must call it."""
    from k2core.model.files import save_tensors

    save_tensors(optimizer.state_dict(), folder / OPTIMIZER)


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Continue with the optimiser state in `folder`, each process with its own part of it.

    Raises:
        StorageError: there is none, it is torn, or it belongs to another model.
    """
    import torch

    from k2core.model.files import load_tensors, read_tensors

    if (folder / OPTIMIZER).exists() and not torch.distributed.is_initialized():
        tensors = read_tensors(folder / OPTIMIZER)
    else:
        tensors = optimizer.state_dict()
        load_tensors(tensors, folder / OPTIMIZER)
    try:
        optimizer.load_state_dict(tensors)
    except ValueError as error:
        raise StorageError(f"{folder / OPTIMIZER}: {error}") from None
