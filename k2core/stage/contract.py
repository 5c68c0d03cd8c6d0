"""What a stage and the code that runs it owe each other: its declaration, its job, its figures, its errors."""

from __future__ import annotations

import signal
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2core.machine.processes import rank
from k2core.recipe import Section, mask
from k2core.stage.process import terminate
from k2core.storage.foreign import printable

if typing.TYPE_CHECKING:
    from tqdm import tqdm

    from k2core.tracking.client import StageRun

Metrics = dict[str, float]
OUTPUTS = ("out", "plot")
RECIPE = Path("params.yaml")


class StageError(RuntimeError):
    """A stage cannot go on; the message is one sentence that says what, where and what to do."""


def sections_of(run: Callable[..., object], section: str) -> dict[str, tuple[str, type[Section]]]:
    """Parameter name → (dotted section of the recipe, its class), read off the signature of `run`."""
    return {
        name: (section if name == "params" else name, hint)
        for name, hint in typing.get_type_hints(run).items()
        if isinstance(hint, type) and issubclass(hint, Section)
    }


def description(run: Callable[..., object]) -> str:
    """What a stage does: the first paragraph of its module's docstring."""
    return (sys.modules[run.__module__].__doc__ or "").strip().split("\n\n")[0]


class Job:
    """One execution of a stage: its scratch space, its progress and its live metrics.

    `scratch` survives a kill and is reused by the next attempt with the same parameters, inputs and code; it is
    removed once the outputs are published. All processes of a stage share it; only the first speaks and records.

    Attributes:
        recipe: the recipe file.
        fingerprint: what the work depends on (inputs, sections of the recipe, code), name → digest.
        answers: the workspace's replay cache of LLM answers, which is kept.
        closing: what the stage says last, when its outputs are in place.
        first: whether this is the stage's only process, or the one with rank 0.
        stopping: SIGTERM came while the work was `graceful`.
    """

    def __init__(
        self, name: str, scratch: Path, tracker: StageRun | None, fingerprint: Mapping[str, str] | None = None,
        answers: Path | None = None, recipe: Path = RECIPE,
    ) -> None:  # fmt: skip
        self.name, self.scratch, self.recipe, self._tracker = name, scratch, recipe, tracker
        self.fingerprint = dict(fingerprint or {})
        self.answers = answers or scratch / "answers.sqlite"
        self.closing = ""
        self.first, self.stopping = rank() == 0, False

    def say(self, text: str) -> None:
        """Print a line at once: what is about to be done, with its size and expected time."""
        if self.first:
            print(printable(mask(f"[{self.name}] {text}")), flush=True)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Within the block, a first SIGTERM only sets `stopping`: work ends where nothing is lost. A second ends it."""

        def stop(signum: int, frame: Any) -> None:
            if self.stopping:
                terminate(signum, frame)
            self.stopping = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGTERM) is stop:  # else it is ending, and no signal counts any more
                signal.signal(signal.SIGTERM, before)

    def log(self, metrics: Metrics, step: int = 0) -> None:
        """Send live figures to MLflow (bounded number of names, every few steps, not every step)."""
        if self._tracker:
            self._tracker.metrics(metrics, step)

    def trace(self, name: str, messages: list[dict[str, Any]], about: Mapping[str, Any]) -> None:
        """Send a dialogue to MLflow's page of traces: one of a sample, for people to read.

        Args:
            messages: in OpenAI's format, see `docs/architecture.md`.
            about: what is known of it, such as its score.
        """
        if self._tracker:
            self._tracker.trace(name, messages, dict(about))

    def progress(self, total: int, unit: str, done: int = 0, what: str = "") -> tqdm:
        """A bar with rate and time left; where the output is not a terminal, a line every ten seconds."""
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        label = f"[{self.name}] {what}".rstrip()
        return tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=label,
            unit_scale=True,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else 10.0,
            ncols=None if terminal else 110,
            file=sys.stderr if terminal else _LineStream(),
            leave=True,
            position=None if terminal else 0,  # else a second bar moves the cursor up and down
            disable=not self.first,
        )


class _LineStream:
    """stderr for a bar that redraws itself, as lines (carriage returns are unreadable in logs)."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip("\r\n") + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
