"""Fresh weights for the parts of a model that a process has: the same numbers as `Transformer` draws as a whole.

    with torch.device("meta"):
        model = Transformer(config)
    weights = FreshWeights(model)    # before the model is divided
    ...                              # divide it, `model.allocate`
    weights.fill(model)

One stream of random numbers makes the whole model, matrix after matrix. Every process goes through all of it, a few
million numbers at a time, and keeps what is its own. So the weights depend on the seed alone, not on the mesh, and no
process has memory for more than its parts; the time grows with the whole model. A stream for each matrix would spare a
process the others' numbers, but would change the weights of every seed. torchtitan draws by DTensor on the devices, and
gives the stages of a pipeline seeds of their own: there, other stages make another model.

Shapes: R rows that a process has of a matrix, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from k2core.model.transformer import Transformer

NUMBERS = 2**22
"""Numbers that are drawn at once, roughly: 16 MB."""
BLOCK = 16
"""torch draws normal numbers in blocks of so many: pieces of whole blocks have the numbers of the whole tensor."""


class FreshWeights:
    """How the weights of a whole model are drawn from torch's default generator of the CPU.

    Args:
        model: not yet divided; best on the meta device.
    """

    def __init__(self, model: Transformer) -> None:
        # What torch itself draws while it makes these modules comes first in the stream, and is not used.
        modules = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
        self._unused = [
            (tuple(module.weight.shape), Tensor.normal_ if isinstance(module, nn.Embedding) else Tensor.uniform_)
            for module in modules
        ]
        self._matrices = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim > 1}
        self._draw = partial(Tensor.normal_, std=model.config.initializer_range)

    def fill(self, model: Transformer) -> None:
        """Draw the parts of `model` that this process has; norms become 1, routers' biases 0."""
        for shape, draw in self._unused:
            for _ in _pieces(shape, draw):
                pass
        own = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for name, shape in self._matrices.items():
            part_RC, numbers_R = _part(own[name]) if name in own else (torch.empty(0, shape[-1]), torch.empty(0))
            for start, piece in _pieces(shape, self._draw):
                first, after = torch.searchsorted(numbers_R, torch.tensor([start, start + len(piece)])).tolist()
                if first < after:
                    part_RC[first:after] = piece[numbers_R[first:after] - start].to(part_RC.device)
        for name in own.keys() - self._matrices.keys():
            own[name].fill_(1.0)
        for router in model.routers():
            router.e_score_correction_bias.zero_()


def _pieces(shape: tuple[int, ...], draw: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, Tensor]]:
    """A tensor of `shape` as rows of its last axis, in pieces [rows, columns] with the number of their first row."""
    columns, rows = shape[-1], prod(shape[:-1])
    starts = list(range(0, rows, BLOCK * max(1, NUMBERS // (BLOCK * columns))))
    if len(starts) > 1 and (rows - starts[-1]) * columns < BLOCK:
        starts.pop()  # torch draws less than a block in another way
    for start, end in zip(starts, [*starts[1:], rows], strict=True):
        yield start, draw(torch.empty(end - start, columns))


def _part(parameter: Tensor) -> tuple[Tensor, Tensor]:
    """This process's part of `parameter`, as R rows of its last axis, and which rows of the whole these are."""
    shape = parameter.shape
    numbers = torch.arange(prod(shape[:-1])).view(shape[:-1])
    if not isinstance(parameter, DTensor):
        return parameter.view(-1, shape[-1]), numbers.flatten()
    [place] = parameter.__create_chunk_list__()  # what DCP asks, too
    for axis, (offset, size) in enumerate(zip(place.offsets[:-1], place.sizes[:-1], strict=True)):
        numbers = numbers.narrow(axis, offset, size)
    return parameter.to_local().view(-1, shape[-1]), numbers.flatten()
