"""The policy's loss over an iteration's responses: forward and backward passes, micro-batch by micro-batch.

Trees of responses are packed into rows, and groups of processes take the micro-batches in turn. Within a group the
processes that share rows exchange log-probabilities of tokens, so that each has those of whole responses and the same
loss; of a pipeline the last stage has it, and all micro-batches go through the stages at once. A process without a
micro-batch in the last round repeats the first with a loss of zero, since all must take part in gathering weights and
exchanging tokens.

Shapes: B rows, T columns of this process, S of the row, N responses, M their tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import compress

import torch
from torch import Tensor

from k2core.data.rows.batch import IGNORE, Batch
from k2core.data.rows.packing import pack_rows
from k2core.data.rows.trees import Tree
from k2core.inference.trajectory import Prompt, Rollout
from k2core.model.loss import token_losses
from k2core.model.transformer import Transformer
from k2core.rl.config import RLConfig
from k2core.rl.objective import clipped_loss, sequence_log_probs, squared_loss
from k2core.rl.routes import replaying
from k2core.training.branches import grow, trees_to_batch
from k2core.training.dialogues import Dialogue
from k2core.training.ranks import Ranks


@dataclass(frozen=True)
class Signal:
    """A response with its prompt and its advantage, ready for the loss."""

    prompt: Prompt
    rollout: Rollout
    advantage: float


@dataclass(frozen=True)
class MicroBatch:
    """This process's columns of some rows of trees; `sequence_BS`: of whole rows, the response of each target, or -1.

    Attributes:
        members: numbers of the responses.
        counted: whether it is this group's, not a repetition.
    """

    batch: Batch
    sequence_BS: Tensor
    rows: list[list[int]]
    members: list[int]
    counted: bool


@dataclass
class Passed:
    """Of the responses that this process has read and no other reports.

    Attributes:
        loss: their part of the policy loss.
        ratios: log π_θ/π_old of each.
        gains: r - r̄ of each.
        own_ratios: of those that π_old sampled alone.
    """

    loss: float = 0.0
    ratios: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    own_ratios: list[float] = field(default_factory=list)


class PolicyLoss:
    """The loss of groups of responses in a step that has `total` of them, at the temperature they were sampled at.

    Args:
        version: number of the policy π_old.
    """

    def __init__(
        self, config: RLConfig, ranks: Ranks, groups: Sequence[Sequence[Signal]], *, total: int, temperature: float,
        version: int,
    ) -> None:  # fmt: skip
        self.config, self.ranks, self.total = config, ranks, total
        self.temperature, self.version = temperature, version
        self.scale, self.tau = (2 * config.tau, config.tau) if config.objective == "k2" else (1.0, 0.0)
        self.signals, self.responses, self.trees = list[Signal](), dict[int, Dialogue](), list[Tree]()
        for group in groups:
            first = len(self.signals)
            own = {first + i: Dialogue(s.rollout.tokens, s.rollout.mask) for i, s in enumerate(group)}
            self.trees += grow(group[0].prompt.tokens, own, config.context)
            self.signals, self.responses = [*self.signals, *group], self.responses | own
        self.passed = Passed()

    def backward(self, model: Transformer) -> Passed:
        """Add the gradients of the loss / `scale`; all processes must call this with the same groups."""
        made, self.passed = self._micro_batches(), Passed()
        if model.pipeline:
            if made:
                model.pipeline.run(
                    [each.batch for each in made], lambda number, logits: self._loss(model, made[number], logits),
                    counted=[each.counted for each in made],
                    wanted_BT=torch.cat([each.batch.targets_BT != IGNORE for each in made]),
                )  # fmt: skip
            return self.passed
        for each in made:
            model.counting, batch = each.counted, each.batch
            known = {number: self.signals[number].rollout.routes for number in each.members}
            routes = {number: of for number, of in known.items() if of is not None}
            with replaying(model, self.trees, each.rows, routes) if routes else nullcontext():
                wanted_BT = batch.targets_BT != IGNORE
                logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, wanted_BT)
                self._loss(model, each, logits_MV).backward()
        model.counting = True
        return self.passed

    def _micro_batches(self) -> list[MicroBatch]:
        rows, most = self._rows(), self.config.microbatch_rows
        parts = [rows[start : start + most] for start in range(0, len(rows), most)]
        made = []
        for chosen, counted in self.ranks.dealt(parts):
            width = self._width(rows if self.ranks.pipeline > 1 else chosen)
            batch, sequence_BS = trees_to_batch(self.trees, self.responses, chosen, width)
            members = [number for row in chosen for index in row for number in self.trees[index].branches]
            own, sequence_BS = self.ranks.part(batch), sequence_BS.to(self.ranks.device)
            made.append(MicroBatch(own, sequence_BS, chosen, members, counted))
        return made

    def _rows(self) -> list[list[int]]:
        return pack_rows([len(tree) for tree in self.trees], self.config.context)

    def _width(self, rows: Sequence[Sequence[int]]) -> int:
        """Columns of the widest row, and padding for those who share it; a pipeline's micro-batches are equal."""
        return self.ranks.columns(max(sum(len(self.trees[index]) for index in row) for row in rows))

    def _loss(self, model: Transformer, each: MicroBatch, logits_MV: Tensor) -> Tensor:
        """What goes backward, from the logits of this process's targets."""
        targets_BT, members, signals = each.batch.targets_BT, each.members, self.signals
        wanted_BT = targets_BT != IGNORE
        own_M = -token_losses(logits_MV.float() / self.temperature, targets_BT[wanted_BT])
        log_probs_BT = torch.zeros_like(targets_BT, dtype=own_M.dtype).masked_scatter(wanted_BT, own_M)
        chosen_BS = each.sequence_BS >= 0
        log_probs_M, sequence_M = model.rows.gather(log_probs_BT)[chosen_BS], each.sequence_BS[chosen_BS]
        log_probs_N = sequence_log_probs(log_probs_M, sequence_M, len(signals))[members]
        old_N = log_probs_N.new_tensor([sum(signals[index].rollout.log_probs) for index in members])
        advantages_N = log_probs_N.new_tensor([signals[index].advantage for index in members])
        if self.config.objective == "k2":
            loss = squared_loss(log_probs_N, old_N, advantages_N, self.tau)
        else:
            old_M = log_probs_M.new_tensor(_sampled_log_probs(signals, sequence_M.tolist()))
            every_N = log_probs_M.new_tensor([signal.advantage for signal in signals])
            loss = clipped_loss(log_probs_M, old_M, sequence_M, every_N)
        loss = loss * len(members) / self.total
        if each.counted and self.ranks.reports:
            self._note(members, loss, (log_probs_N - old_N).tolist())
        # Gradients are averaged over a stage's processes, and those that share rows all have their group's loss.
        return loss * self.ranks.groups * each.counted / self.scale

    def _note(self, members: Sequence[int], loss: Tensor, ratios: Sequence[float]) -> None:
        passed, signals = self.passed, self.signals
        passed.loss += float(loss.detach())
        passed.ratios += ratios
        passed.gains += [signals[index].advantage for index in members]
        pairs = zip(members, ratios, strict=True)
        passed.own_ratios += [ratio for index, ratio in pairs if not signals[index].rollout.stale(self.version)]


def _sampled_log_probs(signals: Sequence[Signal], sequence_M: Sequence[int]) -> list[float]:
    """log π_old of sampled tokens, given each one's response; the tokens of a response are in their order."""
    rollouts = {number: signals[number].rollout for number in set(sequence_M)}
    rest = {number: compress(rollout.log_probs, rollout.mask) for number, rollout in rollouts.items()}
    return [next(rest[number]) for number in sequence_M]
