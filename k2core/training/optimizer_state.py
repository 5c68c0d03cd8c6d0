"""The optimiser's state beside a model: from one phase to the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2core.storage import StorageError

if TYPE_CHECKING:
    from k2core.optim.optimizer import Optimizer

OPTIMIZER = "optimizer.safetensors"


def save_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Write `optimizer.safetensors` beside a model; all processes gather what is spread over them."""
    from safetensors.torch import save_file

    from k2core.model.sharded import whole

    tensors = {name: whole(tensor).cpu().contiguous() for name, tensor in optimizer.state_dict().items()}
    save_file(tensors, folder / OPTIMIZER)


def load_optimizer(optimizer: Optimizer, folder: Path) -> None:
    """Continue with the optimiser state in `folder`, spread like the live one.

    Raises:
        StorageError: there is none, it is torn, or it belongs to another model.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    from k2core.model.files import read_tensors

    tensors = read_tensors(folder / OPTIMIZER)
    for name, live in optimizer.state_dict().items():
        if isinstance(live, DTensor) and name in tensors:
            moved = tensors[name].to(live.device)
            tensors[name] = distribute_tensor(moved, live.device_mesh, live.placements, src_data_rank=None)
    try:
        optimizer.load_state_dict(tensors)
    except ValueError as error:
        raise StorageError(f"{folder / OPTIMIZER}: {error}") from None
