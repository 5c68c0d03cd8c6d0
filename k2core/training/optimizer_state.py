"""The optimiser's state beside a model: from one phase to the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2core.storage import StorageError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from k2core.optim.optimizer import Optimizer

OPTIMIZER = "optimizer.safetensors"


def save_optimizer(optimizer: Optimizer, folder: Path, stages: ProcessGroup | None = None) -> None:
    """Write `optimizer.safetensors` beside a model; all processes gather what is spread over them.

    Args:
        stages: of a pipeline (`Transformer.stages`).
    """
    from safetensors.torch import save_file

    from k2core.model.sharded import everything

    save_file(everything(optimizer.state_dict(), stages), folder / OPTIMIZER)


def load_optimizer(optimizer: Optimizer, folder: Path, stages: ProcessGroup | None = None) -> None:
    """Continue with the optimiser state in `folder`, spread like the live one.

    Args:
        stages: of a pipeline, in which this process has the state of some layers.

    Raises:
        StorageError: there is none, it is torn, or it belongs to another model.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    from k2core.model.files import read_tensors

    tensors, own = read_tensors(folder / OPTIMIZER), optimizer.state_dict()
    if stages:
        tensors = {name: tensor for name, tensor in tensors.items() if name in own}
    for name, live in own.items():
        if isinstance(live, DTensor) and name in tensors:
            moved = tensors[name].to(live.device)
            tensors[name] = distribute_tensor(moved, live.device_mesh, live.placements, src_data_rank=None)
    try:
        optimizer.load_state_dict(tensors)
    except ValueError as error:
        raise StorageError(f"{folder / OPTIMIZER}: {error}") from None
