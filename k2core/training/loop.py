"""The loop of every training: it resumes, logs, keeps checkpoints, leaves out spikes and ends cleanly on SIGTERM.

`trainer.py` and `k2core/rl/loop.py` say what a step is.
"""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from k2core.stage import StageError
from k2core.training.checkpoint import Checkpoints
from k2core.training.history import History, Metrics
from k2core.training.learner import Learner
from k2core.training.setting import Setting
from k2core.training.settings import TrainingSettings
from k2core.training.spikes import SKIPPED, Spikes

if TYPE_CHECKING:
    from torch.nn import Module

TIMED_STEPS = 3
"""Steps behind the first estimate of the total time."""


@dataclass(frozen=True)
class Update:
    """An update that was made.

    Attributes:
        norm: of the gradient, before clipping.
        lr: the optimiser's learning rate.
        score: deviations of loss or norm from its recent mean, whichever is larger.
        figures: what the optimiser reports.
    """

    norm: float
    lr: float
    score: float
    figures: Metrics


class Training(ABC):
    """One training, from its newest checkpoint in `setting.job.scratch` to its last step.

    A training that was stopped in any way and is started again (same arguments, model and optimiser as at the start)
    ends in the same weights and the same rows.

    Attributes:
        step: steps made so far.
    """

    unit: ClassVar[str] = "step"

    def __init__(self, learner: Learner, settings: TrainingSettings, setting: Setting) -> None:
        self.model, self.optimizer, self.settings, self.setting = learner.model, learner.optimizer, settings, setting
        self.job, self.steps, self.rates = setting.job, settings.steps, settings.rates()
        self.history, self.spikes = History(settings.log_every), Spikes(setting.spikes, setting.job.scratch)
        self.step = 0

    @abstractmethod
    def advance(self) -> Metrics:
        """Make step number `self.step`; returns its metrics, none if it was left out. To end before it, call `stop`."""

    def weights(self) -> Module:
        """What a checkpoint holds the weights of."""
        return self.model

    @abstractmethod
    def log(self) -> str:
        """End an interval: a row for the plot, figures for MLflow; returns the figures for the progress line."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights, optimiser, step, rows and spikes; JSON."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""

    def pace(self, seconds: float) -> str:
        """How fast the first steps were, of `seconds` each."""
        return f"{seconds:.3g} s per {self.unit}"

    def run(self, plot: Path) -> None:
        """Make all steps that are left; the rows go to `plot`.

        Raises:
            StageError: too many updates in a row had to be left out.
            StorageError: a checkpoint could not be written, or is of other data, recipe or code.
            SystemExit: SIGTERM came; a checkpoint has been written.
        """
        job = self.job
        with Checkpoints(job.scratch, self.setting.checkpoint, job.fingerprint, job.say, job.name) as self.checkpoints:
            self.resume()
            begun, begun_at = time.monotonic(), self.step
            with job.graceful(), job.progress(self.steps, self.unit, done=self.step) as bar:
                while self.step < self.steps:
                    metrics = self.advance()
                    self.step += 1
                    self.history.add(metrics)
                    if self.step == begun_at + TIMED_STEPS:
                        seconds = (time.monotonic() - begun) / TIMED_STEPS
                        left = seconds * (self.steps - self.step)
                        job.say(f"{self.pace(seconds)}: about {left:.0f} s to go")
                    if self.due(self.settings.log_every):
                        bar.set_postfix_str(self.log(), refresh=False)
                    bar.update()
                    if self.due(self.settings.checkpoint_every):
                        self.save()
            self.checkpoints.finish()
        if job.stopping:  # it came during the last step
            raise SystemExit(128 + signal.SIGTERM)
        if job.first:
            self.history.write(plot)

    def update(self, number: int, loss: float, samples: Callable[[], list[str]]) -> Update | None:
        """The optimiser's step with the present gradients; None if it would be a spike and is left out.

        Args:
            number: of the update, in the whole training.
            samples: names of the samples behind the gradients, for the record.
        """
        norm = self.optimizer.gradient_norm()
        score = self.spikes.score(loss, norm)
        if reason := self.spikes.verdict(loss, norm):
            self._leave_out(number, reason, samples())
            return None
        self.spikes.accept(loss, norm)
        scale = self.rates(self.step)
        return Update(norm, self.optimizer.lr * scale, score, self.optimizer.step(scale, norm))

    def was_left_out(self, number: int) -> bool:
        """Whether an update was left out before the training was resumed: it stays out, and is counted already."""
        known = self.spikes.records.get(number)
        if known:
            self._leave_out(number, known["reason"], known["samples"])
        return known is not None

    def left_out(self) -> dict[str, str]:
        """`skipped.jsonl`, name → content, if there is anything in it."""
        return {SKIPPED: self.spikes.lines()} if self.spikes.records else {}

    def resume(self) -> None:
        state = self.checkpoints.restore(self.weights(), self.optimizer)
        if state is None:
            return
        self.step = state["step"]
        self.history.restore(state["history"])
        self.spikes.restore(state["spikes"])
        self.restore(state)
        self.job.say(f"resuming after {self.unit} {self.step:,}")
        for row in self.history.rows:  # a resumed run is a new one in MLflow, and whole
            self.job.log(row, int(row["step"]))

    def save(self) -> None:
        """Write a checkpoint."""
        own = {"step": self.step, "history": self.history.state(), "spikes": self.spikes.state()}
        self.checkpoints.save(self.step, self.weights(), self.optimizer, own | self.state())

    def stop(self) -> NoReturn:
        """End because of SIGTERM, with a checkpoint of the steps made so far."""
        if self.step % self.settings.checkpoint_every:
            self.save()
        self.checkpoints.finish()
        where = f"after {self.unit} {self.step:,}"
        self.job.say(f"stopped by SIGTERM {where}; run the same command again to go on from there")
        raise SystemExit(128 + signal.SIGTERM)

    def due(self, every: int, after: int = 0) -> bool:
        """Whether something is due `every` steps, and after the last one, `after` steps from now."""
        step = self.step + after
        return step % every == 0 or step == self.steps

    def _leave_out(self, number: int, reason: str, samples: list[str]) -> None:
        """Record that an update was left out, and why."""
        self.spikes.skip(number, reason, samples, write=self.job.first)
        self.job.say(f"step {number} is left out, the weights are unchanged: {reason}; its samples: {SKIPPED}")
        if self.spikes.in_a_row == self.spikes.settings.max_in_a_row:
            self.checkpoints.finish()
            raise StageError(
                f"{self.spikes.in_a_row} steps in a row were left out, the last is step {number}: {reason}; look at "
                f"their samples in {self.spikes.path}, lower the learning rate, or change section spikes"
            )
