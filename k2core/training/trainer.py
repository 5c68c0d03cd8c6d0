"""The training loop: pre-training phases, context extension, fine-tuning and the critic all run through `train`.

Logged metrics (`plots/*.csv`; live in MLflow):

| name | what |
|---|---|
| `train/loss` | nats a target token, mean of the interval |
| `train/lr` | Muon's learning rate (`lr/adamw` is AdamW's) |
| `train/grad_norm` | global norm before clipping |
| `train/tokens_seen` | target tokens so far, earlier phases included |
| `qk_clip/*`, `moe/*`, `optim/*` | what the optimiser reports |
| `spike/skipped` | steps left out so far because loss or gradient was not finite |
| `throughput/tps` | target tokens a second (live only: a rate must not enter an output) |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from k2core.corpus.batch import IGNORE, Batch
from k2core.model.counts import activated_parameters, total_parameters
from k2core.stage import Job, StageError
from k2core.training import checkpoint
from k2core.training.detail import Detail
from k2core.training.history import History, Metrics
from k2core.training.loss import batch_loss

__all__ = ["Batch", "BatchSource", "TrainResult", "train"]

MAX_SKIPPED_IN_A_ROW = 3
RENAMED = {"grad_norm": "train/grad_norm", "lr/muon": "train/lr"}
"""The optimiser's names → the names that trainers commonly log."""
TIMED_STEPS = 3
"""Steps that the first estimate of the whole time is taken from."""


class BatchSource(Protocol):
    """Where batches come from."""

    def batch(self, step: int) -> Batch:
        """Batch number `step`, 0-based: a pure function of `step`, so that a resumed run reads what was not read."""
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
        detail: files with each head's and each expert's figures, name → content (`detail.py`).
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
    tokens_before: int = 0,
) -> TrainResult:
    """Train for `steps` steps, resuming from a checkpoint in `job.scratch`; write the CSV to `plot`.

    A killed call that is made again (same arguments, model and optimiser as at the start) ends in the same weights
    and the same CSV.

    Args:
        model: a `Transformer`, changed in place.
        optimizer: a `MuonClip` over it.
        schedule: step → multiplier of the optimiser's learning rates.
        tokens_before: target tokens that earlier phases have seen.

    Raises:
        StageError: loss or gradient was not finite three steps in a row.
    """
    history, detail = History(log_every), Detail()
    state = {"step": 0, "tokens_seen": tokens_before, "skipped": 0, "in_a_row": 0}
    first = source.batch(0)
    job.say(
        f"{total_parameters(model):,} parameters, {activated_parameters(model):,} activated; {steps:,} steps of "
        f"{first.tokens_BT.shape[0]}×{first.tokens_BT.shape[1]} tokens, {steps * first.tokens_BT.numel():,} in all; "
        f"the time it takes is said after {TIMED_STEPS} steps"
    )
    saved, faults = checkpoint.restore(job.scratch, model, optimizer)
    for fault in faults:
        job.say(fault)
    if saved:
        history.restore(saved.pop("history"))
        detail.restore(saved.pop("detail"))
        state = saved
        job.say(f"resuming after step {state['step']:,}")
    model.train()
    begun, begun_at, tokens_at = time.monotonic(), state["step"], state["tokens_seen"]
    clock, counted = begun, tokens_at
    with job.progress(steps, "step", done=state["step"]) as bar:
        while state["step"] < steps:
            step = state["step"]
            batch = source.batch(step)
            metrics = _step(model, optimizer, batch, schedule(step))
            state["in_a_row"] = 0 if metrics else state["in_a_row"] + 1
            if metrics:
                detail.add(optimizer)
            else:
                state["skipped"] += 1
                job.say(f"step {step}: loss or gradient is not finite; the step is left out, the weights are unchanged")
            if state["in_a_row"] == MAX_SKIPPED_IN_A_ROW:
                raise StageError(
                    f"loss or gradient was not finite {MAX_SKIPPED_IN_A_ROW} steps in a row (the last is step {step}); "
                    "lower the learning rate or look at the data of these steps"
                )
            history.add(metrics)
            state["step"] = step + 1
            state["tokens_seen"] += int((batch.targets_BT != IGNORE).sum())
            now = time.monotonic()
            if step + 1 == begun_at + TIMED_STEPS:
                rest = (now - begun) / TIMED_STEPS * (steps - step - 1)
                job.say(f"{(state['tokens_seen'] - tokens_at) / (now - begun):,.0f} tokens/s: about {rest:.0f} s to go")
            if (step + 1) % log_every == 0 or step + 1 == steps:
                totals = {"train/tokens_seen": float(state["tokens_seen"]), "spike/skipped": float(state["skipped"])}
                row = history.close(step + 1, totals)
                detail.close(step + 1, model)
                tps = (state["tokens_seen"] - counted) / (now - clock)
                clock, counted = now, state["tokens_seen"]
                job.log({**row, "throughput/tps": tps}, step + 1)
                bar.set_postfix_str(f"loss {row.get('train/loss', math.nan):.3f}, {tps:,.0f} tok/s", refresh=False)
            bar.update()
            if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
                kept = {**state, "history": history.state(), "detail": detail.state()}
                checkpoint.save(job.scratch, step + 1, model, optimizer, kept)
    history.write(plot)
    return _result(history, detail, state)


def _step(model: Any, optimizer: Any, batch: Batch, lr_scale: float) -> Metrics:
    """One update; its metrics, or nothing if it was left out because loss or gradient was not finite."""
    optimizer.zero_grad()
    loss = batch_loss(model, batch)
    if not bool(loss.isfinite()):
        return {}
    loss.backward()
    try:
        metrics = optimizer.step(lr_scale)
    except FloatingPointError:
        return {}
    return {"train/loss": float(loss.detach()), **{RENAMED.get(name, name): value for name, value in metrics.items()}}


def _result(history: History, detail: Detail, state: dict[str, int]) -> TrainResult:
    rows = history.rows
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    if not losses:
        raise StageError("every step was left out because loss or gradient was not finite; nothing was trained")
    clipped = [row.get("qk_clip/heads_clipped", 0.0) for row in rows]
    return TrainResult(
        loss=losses[-1],
        tokens_seen=state["tokens_seen"],
        max_logit=max(row.get("qk_clip/max_logit", -math.inf) for row in rows),
        heads_clipped=sum(clipped) / len(clipped),
        skipped=state["skipped"],
        rows=rows,
        detail=detail.files(),
    )
