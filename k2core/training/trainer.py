"""The training loop: pre-training phases, context extension, fine-tuning and the critic all run through `train`.

Logged metrics (`plots/*.csv`; live in MLflow):

| name | what |
|---|---|
| `train/loss` | nats a target token, mean of the interval |
| `train/lr` | Muon's learning rate (`lr/adamw` is AdamW's) |
| `train/grad_norm` | global norm before clipping |
| `train/tokens_seen` | target tokens so far, earlier phases included |
| `val/bpb`, `val/bpb/DOMAIN` | held-out bits per byte, in the rows where it was measured |
| `qk_clip/*`, `moe/*`, `optim/*` | what the optimiser reports |
| `spike/score` | largest loss or gradient norm of the interval, in deviations from its recent mean (`spikes.py`) |
| `spike/skipped` | steps left out so far |
| `throughput/tps`, `throughput/mfu` | target tokens a second; share of the peak (live only, like all below) |
| `throughput/data_loading_pct`, `throughput/overhead_pct` | share of the time for batches; for all but the step |
| `checkpoint/save_s`, `memory/max_reserved_gib` | time that checkpoints took of the interval; most memory so far |

The trainer draws no random number: data is a pure function of the step, the model has no dropout.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from k2core.data.rows.batch import IGNORE, Batch
from k2core.model.counts import activated_parameters, total_parameters
from k2core.stage import Job, StageError
from k2core.training.checkpoint import CheckpointConfig, Checkpoints
from k2core.training.history import History, Metrics
from k2core.training.loss import batch_nll
from k2core.training.per_head_log import Detail
from k2core.training.ranks import Ranks
from k2core.training.spikes import SKIPPED, SpikeConfig, Spikes
from k2core.training.throughput import Clock, memory_gib, peak_flops, training_flops

__all__ = ["Batch", "BatchSource", "TrainResult", "train"]

RENAMED = {"grad_norm": "train/grad_norm", "lr/muon": "train/lr"}
"""The optimiser's names → the names that trainers commonly log."""
TIMED_STEPS = 3
"""Steps that the first estimate of the whole time is taken from."""
EXPECTED_SHARE = 0.4
"""Of the peak, for the estimate before the first step: what large trainings reach, and this one on two cores."""


class BatchSource(Protocol):
    """Where batches come from: pure functions of the step, so that a resumed run reads what was not read.

    Attributes:
        batch_rows: rows a step.
    """

    batch_rows: int

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """Rows `rows` (all by default) of batch number `step`, 0-based."""
        ...

    def samples(self, step: int) -> list[str]:
        """Names of what is in batch number `step`, for the record of a step that is left out."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """What a finished training has to tell.

    Attributes:
        loss: mean of the last logged interval, nats a token.
        tokens_seen: target tokens, earlier phases included.
        max_logit: largest attention logit of all steps.
        heads_clipped: heads clipped a step, mean over the run.
        skipped: steps left out.
        rows: the rows of the CSV.
        detail: files with each head's and each expert's figures (`detail.py`) and the steps left out, name → content.
    """

    loss: float
    tokens_seen: int
    max_logit: float
    heads_clipped: float
    skipped: int
    rows: list[Metrics]
    detail: dict[str, str]

    def figures(self) -> Metrics:
        """The result as figures of a stage."""
        return {
            "train/loss": self.loss,
            "train/tokens_seen": float(self.tokens_seen),
            "qk_clip/max_logit": self.max_logit,
            "qk_clip/heads_clipped": self.heads_clipped,
            "spike/skipped": float(self.skipped),
        }


def train(
    model: Any,
    optimizer: Any,
    source: BatchSource,
    *,
    steps: int,
    schedule: Callable[[int], float],
    job: Job,
    plot: Path,
    log_every: int,
    checkpoint_every: int,
    spikes: SpikeConfig,
    checkpoint: CheckpointConfig,
    ranks: Ranks | None = None,
    micro_batch_tokens: int | None = None,
    tokens_before: int = 0,
    validate: Callable[[], Metrics] | None = None,
    validate_every: int = 0,
) -> TrainResult:
    """Train for `steps` steps, resuming from a checkpoint in `job.scratch`; write the CSV to `plot`.

    A call that was stopped in whatever way and is made again (same arguments, model and optimiser as at the start)
    ends in the same weights and the same CSV; on SIGTERM a checkpoint is written first.

    Args:
        model: a `Transformer`, changed in place; spread by `ranks` if there are several.
        optimizer: a `MuonClip` over it.
        schedule: step → multiplier of the optimiser's learning rates.
        micro_batch_tokens: tokens at once, gradients of more are accumulated; None: all of a process's rows at once.
        tokens_before: target tokens that earlier phases have seen.
        validate: figures of the model as it is (`val/…`), every `validate_every` steps and after the last.

    Raises:
        StageError: too many steps in a row had to be left out, or rows cannot be shared out equally.
        StorageError: a checkpoint could not be written, or is of other data, recipe or code.
        SystemExit: SIGTERM came; a checkpoint has been written.
    """
    with Checkpoints(job.scratch, checkpoint, job.fingerprint, job.say, job.name) as checkpoints:
        training = _Training(
            model, optimizer, source, steps, schedule, job, log_every, checkpoint_every, Spikes(spikes, job.scratch),
            checkpoints, ranks or Ranks(), micro_batch_tokens, tokens_before, validate, validate_every,
        )  # fmt: skip
        training.run()
    if job.first:
        training.history.write(plot)
    return training.result()


class _Training:
    """One call of `train`."""

    def __init__(
        self, model: Any, optimizer: Any, source: BatchSource, steps: int, schedule: Callable[[int], float], job: Job,
        log_every: int, checkpoint_every: int, spikes: Spikes, checkpoints: Checkpoints, ranks: Ranks,
        micro_batch_tokens: int | None, tokens_before: int, validate: Callable[[], Metrics] | None,
        validate_every: int,
    ) -> None:  # fmt: skip
        self.model, self.optimizer, self.source, self.steps, self.schedule = model, optimizer, source, steps, schedule
        self.job, self.log_every, self.checkpoint_every = job, log_every, checkpoint_every
        self.spikes, self.checkpoints, self.ranks = spikes, checkpoints, ranks
        self.validate, self.validate_every = validate, validate_every
        self.history, self.detail, self.clock = History(log_every), Detail(), Clock()
        self.step, self.tokens_seen = 0, tokens_before
        self.micro_batches = self._share_out(micro_batch_tokens)

    def _share_out(self, micro_batch_tokens: int | None) -> list[range]:
        """This process's rows of every step, in the portions that are handled at once."""
        self.context = self.source.batch(0, range(1)).tokens_BT.shape[1]
        try:
            rows = self.ranks.rows(self.source.batch_rows)
        except ValueError as error:
            raise StageError(f"{error}; change batch_tokens or parallel.processes") from None
        most = len(rows)
        if micro_batch_tokens is not None:
            most = min(most, max(1, micro_batch_tokens * self.ranks.context // self.context))
        if len(rows) % most:
            raise StageError(
                f"a process's {len(rows)} rows a step are no multiple of the {most} rows that parallel."
                f"micro_batch_tokens {micro_batch_tokens} makes; change one of them"
            )
        return [rows[start : start + most] for start in range(0, len(rows), most)]

    def run(self) -> None:
        self.peak = peak_flops(self.ranks.device)
        if self.peak:
            [self.peak] = self.ranks.sum(self.peak)
        self.flops = training_flops(self.model, self.context)
        self._announce()
        self._resume()
        self.model.train()
        self.clock.start(self.tokens_seen)
        begun, begun_at, tokens_at = time.monotonic(), self.step, self.tokens_seen
        with self.job.graceful(), self.job.progress(self.steps, "step", done=self.step) as bar:
            while self.step < self.steps:
                metrics = self._advance()
                self.history.add(metrics)
                if self.step == begun_at + TIMED_STEPS:
                    seconds = time.monotonic() - begun
                    self.job.say(
                        f"{(self.tokens_seen - tokens_at) / seconds:,.0f} tokens/s: "
                        f"about {seconds / TIMED_STEPS * (self.steps - self.step):.0f} s to go"
                    )
                if self.step % self.log_every == 0 or self.step == self.steps:
                    bar.set_postfix_str(self._log(), refresh=False)
                bar.update()
                if self.step % self.checkpoint_every == 0 or self.step == self.steps:
                    self._save()
        self.checkpoints.finish()
        if self.job.stopping:  # it came during the last step
            raise SystemExit(128 + signal.SIGTERM)

    def _announce(self) -> None:
        """What is about to be done, before the first step."""
        rows, ranks = self.source.batch_rows, self.ranks
        tokens = self.steps * rows * self.context
        parameters = total_parameters(self.model)
        gib = 4 * 4 * parameters / ranks.world / 2**30  # weights, gradients, at most two moments, fp32
        guess = f", about {tokens * self.flops / self.peak / EXPECTED_SHARE:,.0f} s" if self.peak else ""
        self.job.say(
            f"{parameters:,} parameters, {activated_parameters(self.model):,} activated; {self.steps:,} steps of "
            f"{rows}×{self.context} tokens, {tokens:,} in all{guess} at {EXPECTED_SHARE:.0%} of the peak; "
            f"{ranks.world} processes, {len(self.micro_batches)} × {len(self.micro_batches[0])} rows each, up to "
            f"{gib:.2g} GiB of weights, gradients and optimiser state"
        )

    def _resume(self) -> None:
        state = self.checkpoints.restore(self.model, self.optimizer)
        if state is None:
            return
        self.step, self.tokens_seen = state["step"], state["tokens_seen"]
        self.history.restore(state["history"])
        self.detail.restore(state["detail"])
        self.spikes.restore(state["spikes"])
        self.job.say(f"resuming after step {self.step:,}")
        for row in self.history.rows:  # a resumed run is a new one in MLflow, and whole
            self.job.log(row, int(row["step"]))

    def _advance(self) -> Metrics:
        """The next step; its metrics, which are none if it was left out."""
        step = self.step
        with self.clock.on("data"):
            batches = [self.ranks.part(self.source.batch(step, rows)) for rows in self.micro_batches]
        with self.clock.on("step"):
            own = sum(int((batch.targets_BT != IGNORE).sum()) for batch in batches)
            targets, stopping = self.ranks.sum(own, self.job.stopping)
            if stopping:
                self._stop()
            metrics = {} if step in self.spikes.records else self._update(batches, targets)
        if not metrics:
            self._left_out()
        self.step += 1
        self.tokens_seen += int(targets)
        return metrics

    def _update(self, batches: list[Batch], targets: float) -> Metrics:
        """Forward, backward, and the optimiser's step unless the batch is a spike; its metrics, or none."""
        self.optimizer.zero_grad()
        nats = 0.0
        for batch in batches:
            nll = batch_nll(self.model, batch)
            # FSDP2 takes the mean over processes, so that each has the part of the global mean times their number.
            (nll * (self.ranks.world / targets)).backward()
            nats += float(nll.detach())
        [nats] = self.ranks.sum(nats)
        loss, norm = nats / targets, self.optimizer.gradient_norm()
        score = self.spikes.score(loss, norm)
        if score > self.spikes.settings.deviations:
            self.reason = self.spikes.verdict(loss, norm)
            return {}
        self.spikes.accept(loss, norm)
        metrics = self.optimizer.step(self.schedule(self.step), norm)
        self.detail.add(self.optimizer)
        named = {RENAMED.get(name, name): value for name, value in metrics.items()}
        return {"train/loss": loss, "spike/score": score, **named}

    def _left_out(self) -> None:
        """Record that the present step was left out, and why."""
        known = self.spikes.records.get(self.step)
        reason, samples = (
            (known["reason"], known["samples"]) if known else (self.reason, self.source.samples(self.step))
        )
        self.spikes.skip(self.step, reason, samples, write=self.job.first)
        self.job.say(f"step {self.step} is left out, the weights are unchanged: {reason}; its samples: {SKIPPED}")
        if self.spikes.in_a_row == self.spikes.settings.max_in_a_row:
            self.checkpoints.finish()
            raise StageError(
                f"{self.spikes.in_a_row} steps in a row were left out, the last is step {self.step}: {reason}; look at "
                f"their samples in {self.spikes.path}, lower the learning rate, or change section spikes"
            )

    def _log(self) -> str:
        """End an interval: a row for the CSV, figures for MLflow; the figures for the progress line."""
        skipped = float(self.spikes.before(self.step))
        totals = {"train/tokens_seen": float(self.tokens_seen), "spike/skipped": skipped}
        if self.validate and (self.step % self.validate_every < self.log_every or self.step == self.steps):
            with self.clock.on("validation"):
                totals |= self.validate()
            self.model.train()
        row = self.history.close(self.step, totals)
        self.detail.close(self.step, self.model)
        speed = self.clock.report(self.tokens_seen, self.flops, self.peak)
        self.job.log({**row, **speed, "memory/max_reserved_gib": memory_gib(self.ranks.device)}, self.step)
        share = f", {speed['throughput/mfu']:.0%} of peak" if "throughput/mfu" in speed else ""
        return f"loss {row.get('train/loss', math.nan):.3f}, {speed['throughput/tps']:,.0f} tok/s{share}"

    def _save(self) -> None:
        with self.clock.on("checkpoint"):
            state = {
                "step": self.step,
                "tokens_seen": self.tokens_seen,
                "history": self.history.state(),
                "detail": self.detail.state(),
                "spikes": self.spikes.state(),
            }
            self.checkpoints.save(self.step, self.model, self.optimizer, state)

    def _stop(self) -> None:
        """End the run because of SIGTERM, with a checkpoint of the steps made so far."""
        if self.step % self.checkpoint_every:
            self._save()
        self.checkpoints.finish()
        self.job.say(f"stopped by SIGTERM after step {self.step:,}; run the same command again to go on from there")
        raise SystemExit(128 + signal.SIGTERM)

    def result(self) -> TrainResult:
        rows = self.history.rows
        losses = [row["train/loss"] for row in rows if "train/loss" in row]
        if not losses:
            raise StageError("every step was left out; nothing was trained")
        clipped = [row.get("qk_clip/heads_clipped", 0.0) for row in rows]
        skipped = {SKIPPED: self.spikes.lines()} if self.spikes.records else {}
        return TrainResult(
            loss=losses[-1],
            tokens_seen=self.tokens_seen,
            max_logit=max(row.get("qk_clip/max_logit", -math.inf) for row in rows),
            heads_clipped=sum(clipped) / len(clipped),
            skipped=len(self.spikes.records),
            rows=rows,
            detail={**self.detail.files(), **skipped},
        )
