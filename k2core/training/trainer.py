"""The training loop: pre-training phases, context extension, fine-tuning and the critic all run through `train`.

Logged metrics (`plots/*.csv`; live in MLflow):

| name | what |
|---|---|
| `train/loss` | nats per target token, mean of the interval |
| `train/lr` | the matrices' learning rate (`lr/adamw` is AdamW's) |
| `train/grad_norm` | global norm before clipping |
| `train/tokens_seen` | target tokens so far, earlier phases included |
| `val/bpb`, `val/bpb/DOMAIN` | held-out bits per byte, in the rows where it was measured |
| `qk_clip/*`, `moe/*`, `optim/*` | what the optimiser reports |
| `spike/score` | largest loss or gradient norm of the interval, in deviations from its recent mean (`spikes.py`) |
| `spike/skipped` | steps left out so far |
| `throughput/tps`, `throughput/mfu` | target tokens per second; share of the peak (live only, like all below) |
| `throughput/data_loading_pct`, `throughput/overhead_pct` | share of the time spent on batches; on all but the step |
| `checkpoint/save_s`, `memory/max_reserved_gib` | time that checkpoints took in the interval; most memory so far |

The trainer draws no random number: data is a pure function of the step, the model has no dropout.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from k2core.data.rows.batch import Batch
from k2core.machine import device
from k2core.model.counts import activated, count, training_flops
from k2core.stage import StageError
from k2core.training.dividing import DoesNotDivide, check_columns, rows_at_once
from k2core.training.history import Metrics
from k2core.training.learner import Learner
from k2core.training.loop import TIMED_STEPS, Training
from k2core.training.per_head_log import Detail
from k2core.training.setting import Setting
from k2core.training.settings import TrainingSettings
from k2core.training.throughput import Clock, memory_gib, peak_flops

__all__ = ["Batch", "BatchSource", "Plan", "TrainResult", "train"]

EXPECTED_SHARE = {("cpu", "fp32"): 0.4, ("cuda", "fp32"): 0.025, ("cuda", "bf16"): 0.25}
"""Share of the peak by device and precision, for the announcement: on two cores, and on an H200 (docs/gpu.md)."""


class BatchSource(Protocol):
    """Where batches come from: pure functions of the step, so that a resumed run reads what was not read.

    Attributes:
        batch_rows: rows per step.
    """

    batch_rows: int

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """Rows `rows` (all by default) of batch number `step`, 0-based."""
        ...

    def samples(self, step: int) -> list[str]:
        """Names of what is in batch number `step`, for the record of a step that is left out."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is trained on, how long, and how it is validated.

    Attributes:
        validate: figures of the model as it is (`val/…`), every `validate_every` steps and after the last.
    """

    source: BatchSource
    settings: TrainingSettings
    validate: Callable[[], Metrics] | None = None
    validate_every: int = 0


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished training.

    Attributes:
        loss: mean of the last logged interval, nats per token.
        tokens_seen: target tokens, earlier phases included.
        max_logit: largest attention logit of all steps.
        heads_clipped: heads clipped per step, mean over the run.
        skipped: steps left out.
        rows: the rows of the CSV.
        detail: name → content of files: each head's and each expert's figures (`per_head_log.py`), the steps left out.
    """

    loss: float
    tokens_seen: int
    max_logit: float
    heads_clipped: float
    skipped: int
    rows: list[Metrics]
    detail: dict[str, str]

    def figures(self) -> Metrics:
        """The result as figures of a stage; what the optimiser does not report is not among them."""
        figures = {
            "train/loss": self.loss,
            "train/tokens_seen": float(self.tokens_seen),
            "qk_clip/max_logit": self.max_logit,
            "qk_clip/heads_clipped": self.heads_clipped,
            "spike/skipped": float(self.skipped),
        }
        return {name: value for name, value in figures.items() if math.isfinite(value)}


def train(learner: Learner, plan: Plan, setting: Setting, plot: Path) -> TrainResult:
    """Train to the plan's last step, resuming from a checkpoint in the job's scratch; write the CSV to `plot`.

    Raises:
        StageError: too many steps in a row had to be left out, or rows cannot be shared out equally.
        StorageError: a checkpoint could not be written, or is of other data, recipe or code.
        SystemExit: SIGTERM came; a checkpoint has been written.
    """
    training = _TokenTraining(learner, plan, setting)
    training.run(plot)
    return training.result()


class _TokenTraining(Training):
    """Training on the tokens of a `BatchSource`, by several processes if need be."""

    def __init__(self, learner: Learner, plan: Plan, setting: Setting) -> None:
        super().__init__(learner, plan.settings, setting)
        self.plan, self.source, self.ranks = plan, plan.source, setting.ranks
        self.detail, self.clock = Detail(), Clock()
        self.tokens_seen = learner.before.tokens_seen
        self.micro_batches = self._share_out(setting.micro_batch_tokens)

    def _share_out(self, micro_batch_tokens: int | None) -> list[range]:
        """This process's rows of every step, in the portions that are handled at once."""
        self.context = self.source.batch(0, range(1)).tokens_BT.shape[1]
        try:
            check_columns(self.context, self.ranks.context)
            rows = self.ranks.rows(self.source.batch_rows)
            most = rows_at_once(len(rows), self.context, micro_batch_tokens, self.ranks.context, self.ranks.pipeline)
        except DoesNotDivide as error:
            raise StageError(f"{error}; change batch_tokens or section parallel") from None
        return [rows[start : start + most] for start in range(0, len(rows), most)]

    def run(self, plot: Path) -> None:
        self.peak = peak_flops(self.ranks.device)
        if self.peak:
            [self.peak] = self.ranks.sum(self.peak)
        self.flops = training_flops(self.model.config, self.context)
        self._announce()
        super().run(plot)

    def _announce(self) -> None:
        """Say what is about to be done, before the first step."""
        rows, ranks = self.source.batch_rows, self.ranks
        tokens = self.steps * rows * self.context
        parameters = count(self.model.config).total
        gib = 4 * 4 * parameters / ranks.world / 2**30  # weights, gradients, at most two moments, fp32
        share, guess = EXPECTED_SHARE.get((ranks.device.type, device.precision)), ""
        if self.peak and share:
            seconds = tokens * self.flops / self.peak / share
            time = f"{seconds:,.0f} s" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"
            guess = f", about {time} at {share:.1%} of the peak"
        self.job.say(
            f"{parameters:,} parameters, {activated(self.model.config):,} activated; {self.steps:,} steps of "
            f"{rows}×{self.context} tokens, {tokens:,} in all{guess}; "
            f"{ranks.world} processes, {len(self.micro_batches)} × {len(self.micro_batches[0])} rows each, up to "
            f"{gib:.2g} GiB of weights, gradients and optimiser state"
        )

    def resume(self) -> None:
        super().resume()
        self.model.train()
        self.clock.start(self.tokens_seen)
        self.tokens_at = self.tokens_seen

    def state(self) -> dict[str, Any]:
        return {"tokens_seen": self.tokens_seen, "detail": self.detail.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.tokens_seen = state["tokens_seen"]
        self.detail.restore(state["detail"])

    def pace(self, seconds: float) -> str:
        return f"{(self.tokens_seen - self.tokens_at) / TIMED_STEPS / seconds:,.0f} tokens/s"

    def advance(self) -> Metrics:
        with self.clock.on("data"):
            batches = [self.ranks.part(self.source.batch(self.step, rows)) for rows in self.micro_batches]
        with self.clock.on("step"):
            targets, stopping = self.ranks.sum(self.ranks.targets(batches), self.job.stopping)
            if stopping:
                self.stop()
            metrics = {} if self.was_left_out(self.step) else self._trained_on(batches, targets)
        self.tokens_seen += int(targets)
        return metrics

    def _trained_on(self, batches: list[Batch], targets: float) -> Metrics:
        """Forward, backward, and the optimiser's step unless the batch is a spike; its metrics, or none."""
        self.optimizer.zero_grad(logged=self.due(self.settings.log_every, after=1))
        [nats] = self.ranks.sum(self.ranks.backward(self.model, batches, targets))
        loss, step = nats / targets, self.step
        made = self.update(step, loss, lambda: self.source.samples(step))
        if made is None:
            return {}
        self.detail.add(self.optimizer.detail())
        return {
            "train/loss": loss, "train/lr": made.lr, "train/grad_norm": made.norm, "spike/score": made.score,
            **made.figures,
        }  # fmt: skip

    def log(self) -> str:
        plan = self.plan
        skipped = float(self.spikes.before(self.step))
        totals = {"train/tokens_seen": float(self.tokens_seen), "spike/skipped": skipped}
        every = self.settings.log_every
        if plan.validate and (self.step % plan.validate_every < every or self.step == self.steps):
            with self.clock.on("validation"):
                totals |= plan.validate()
            self.model.train()
        row = self.history.close(self.step, totals)
        self.detail.close(self.step, self.model)
        speed = self.clock.report(self.tokens_seen, self.flops, self.peak)
        self.job.log({**row, **speed, "memory/max_reserved_gib": memory_gib(self.ranks.device)}, self.step)
        share = f", {speed['throughput/mfu']:.0%} of peak" if "throughput/mfu" in speed else ""
        return f"loss {row.get('train/loss', math.nan):.3f}, {speed['throughput/tps']:,.0f} tok/s{share}"

    def save(self) -> None:
        with self.clock.on("checkpoint"):
            super().save()

    def result(self) -> TrainResult:
        rows = self.history.rows
        losses = [row["train/loss"] for row in rows if "train/loss" in row]
        if not losses:
            raise StageError("every step was left out; nothing was trained")
        clipped = [row.get("qk_clip/heads_clipped", 0.0) for row in rows]
        return TrainResult(
            loss=losses[-1],
            tokens_seen=self.tokens_seen,
            max_logit=max(row.get("qk_clip/max_logit", -math.inf) for row in rows),
            heads_clipped=sum(clipped) / len(clipped),
            skipped=len(self.spikes.records),
            rows=rows,
            detail={**self.detail.files(), **self.left_out()},
        )
