"""Pipeline parallelism: the layers are cut into pieces, which lie on stages in turn (interleaved 1F1B, K2 §2.4.2).

    pipeline = cut(model, mesh["pipeline"], virtual=2)     # in place: `model` keeps the layers of this process's pieces
    shard(model, ...)                                      # each piece is a unit of FSDP2
    nats = pipeline.backward(batches, scale)

`torch.distributed.pipelining` has the schedule and sends activations [B, T, D] forward and their gradients back. The
first piece has the embedding, the last one norm and head. All processes of a pipeline are given the same rows: masks
and rotations are made where they are needed. FSDP2 gathers a stage's weights once per step and adds gradients up whole
on each rank before it shares them out (what ZeRO-1 keeps in memory). Parameters keep their names, so that checkpoints
load on any other mesh. Run on CPU with gloo (tests/training/test_pipelines.py), not on GPUs.

Shapes: B rows of a micro-batch, T positions, D hidden width, N micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import ScheduleInterleaved1F1B

from k2core.data.rows.batch import Batch
from k2core.model.transformer import Transformer
from k2core.training.pieces import layers_of

Loss = Callable[[int, Tensor], Tensor]


def cut(model: Transformer, mesh: DeviceMesh, virtual: int) -> Pipeline:
    """Take all layers out of `model` but those of `virtual` pieces; it is `model.pipeline` from then on.

    Args:
        mesh: one axis, the stages.
    """
    stages, stage = mesh.size(), mesh.get_local_rank()
    numbers = range(stage, stages * virtual, stages)
    layers = len(model.layers)
    pieces = [Piece(model, layers_of(layers, stages * virtual, number), layers) for number in numbers]
    if not pieces[0].first:
        del model.embed_tokens
    if not pieces[-1].last:
        del model.norm, model.lm_head
    kept = {name: layer for piece in pieces for name, layer in piece.layers.named_children()}
    model.add_module("layers", nn.ModuleDict(kept))
    model.pipeline = Pipeline(model, mesh.get_group(), dict(zip(numbers, pieces, strict=True)), stages * virtual)
    return model.pipeline


class Piece(Transformer):
    """Some neighbouring layers of a `Transformer`, under their names in it; the first and the last have the ends."""

    def __init__(self, model: Transformer, own: range, layers: int) -> None:
        nn.Module.__init__(self)
        self.config, self.rotary = model.config, model.rotary
        self.model = [model]  # in a list: no part of it
        self.add_module("layers", nn.ModuleDict({str(number): model.layers[number] for number in own}))
        self.first, self.last = own.start == 0, own.stop == layers
        if self.first:
            self.embed_tokens = model.embed_tokens
        self.add_module("norm", model.norm if self.last else nn.Identity())
        if self.last:
            self.lm_head = model.lm_head

    def forward(
        self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None, targets_BT: Tensor | None = None, scored_BT: Tensor | None = None,
        counted_B: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The residual stream [B, T, D] after these layers, from tokens or the stream before; the last piece's logits
        or loss, as of `Transformer.forward`. Where rows are not `counted_B`, nothing is recorded.
        """
        self.rows, self.logits_above = self.model[0].rows, self.model[0].logits_above
        self.counting = counted_B is None or bool(counted_B.all())
        if self.last:
            return super().forward(tokens_BT, positions_BT, segments_BT, wanted_BT, targets_BT, scored_BT)
        return self.hidden(tokens_BT, positions_BT, segments_BT)

    def _embedded(self, tokens: Tensor) -> Tensor:
        return super()._embedded(tokens) if self.first else tokens


class Pipeline:
    """The pieces of a model on this process.

    Attributes:
        group: the processes with the other layers, in the order of the stages.
        pieces: number → piece, of `count`.
    """

    def __init__(self, model: Transformer, group: dist.ProcessGroup, pieces: dict[int, Piece], count: int) -> None:
        self.model, self.group, self.pieces, self.count = [model], group, pieces, count
        self._schedule = lru_cache(maxsize=2)(self._scheduled)  # shapes change, and each has memory of its own
        self._loss: Loss = lambda number, made: made

    def backward(self, batches: Sequence[Batch], scale: float) -> float:
        """Forward and backward of a step's micro-batches; returns the sum of the losses in nats, 0 but on the last
        stage.

        Args:
            scale: factor of the losses before the backward pass.
        """
        targets_BT = torch.cat([each.targets_BT for each in batches])
        nats = list[Tensor]()

        def scaled(number: int, loss: Tensor) -> Tensor:
            nats.append(loss.detach())
            return loss * scale

        self.run(batches, scaled, targets_BT=targets_BT)
        return sum(map(float, nats))

    def run(self, batches: Sequence[Batch], loss: Loss, counted: Sequence[bool] | None = None, **named: Tensor) -> None:
        """Forward and backward of micro-batches of one shape. What does not fill the stages is filled with repetitions
        of the first, without a loss.

        Args:
            loss: called by the last stage with the number of a micro-batch and what the model makes of it.
            counted: whether each counts for routers and largest logits; None: all.
            named: what else the model takes, [B, T] of all micro-batches one after the other.
        """
        B, T = batches[0].tokens_BT.shape
        given, count = len(batches), len(batches) + -len(batches) % self.group.size()
        counted_N = torch.tensor([*(counted or [True] * given), *[False] * (count - given)])

        def filled(each: Tensor) -> Tensor:
            return torch.cat([each, *[each[:B]] * (count - given)])

        rows: dict[str, Any] = {
            name: filled(torch.cat([getattr(each, name) for each in batches]))
            for name in ("tokens_BT", "positions_BT", "segments_BT")
        }
        tokens_BT = rows.pop("tokens_BT")
        rows |= {name: filled(each) for name, each in named.items()}
        if not counted_N.all():
            rows["counted_B"] = counted_N.repeat_interleave(B)
        self._loss = lambda number, made: loss(number, made) if number < given else 0 * made.sum()
        inputs = (tokens_BT,) if 0 in self.pieces else ()
        schedule = self._schedule(count, B, T)
        kept = [(each, each.grad) for each in self.model[0].parameters() if each.grad is not None]
        for parameter, _ in kept:
            parameter.grad = None
        schedule.step(*inputs, target=torch.arange(count), losses=[], return_outputs=False, **rows)
        for parameter, gradient in kept:  # the first step of a schedule would have cleared those that were there
            parameter.grad = gradient if parameter.grad is None else gradient + parameter.grad

    def logits(self, tokens_BT: Tensor, *inputs: Tensor, **named: Tensor) -> Tensor:
        """What the whole model returns, on every process and without gradient; all of them call it with the same."""
        x = tokens_BT
        with torch.no_grad():
            for number in range(self.count):
                source = number % self.group.size()
                if number in self.pieces:
                    x = self.pieces[number](x, *inputs, **named).contiguous()
                about: list[Any] = [(x.shape, x.dtype)]
                dist.broadcast_object_list(about, group=self.group, group_src=source)
                shape, dtype = about[0]
                if number not in self.pieces:
                    x = torch.empty(shape, dtype=dtype, device=tokens_BT.device)
                dist.broadcast(x, group=self.group, group_src=source)
        for module in self.model[0].modules():
            if isinstance(module, FSDPModule):  # without a backward pass they would stay gathered
                module.reshard()
        for piece in self.pieces.values():
            if isinstance(piece, FSDPModule):
                piece.reshard()
        return x

    def _scheduled(self, micro_batches: int, B: int, T: int) -> ScheduleInterleaved1F1B:
        model = self.model[0]
        hidden = torch.empty(
            (B, T, model.config.hidden_size), dtype=model.dtype, device="meta", requires_grad=True
        )  # fmt: skip
        tokens = torch.empty((B, T), dtype=torch.long, device="meta")
        loss = torch.empty((), dtype=torch.float32, device="meta", requires_grad=True)
        stages: list[Any] = [
            PipelineStage(
                piece, number, self.count, model.device, input_args=tokens if number == 0 else hidden,
                output_args=loss if number == self.count - 1 else hidden, group=self.group,
            )
            for number, piece in self.pieces.items()
        ]  # fmt: skip
        return ScheduleInterleaved1F1B(stages, micro_batches, loss_fn=self._lost, scale_grads=False)

    def _lost(self, made: Tensor, number_1: Tensor) -> Tensor:
        return self._loss(int(number_1), made)
