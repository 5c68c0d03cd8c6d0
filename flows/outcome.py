"""What became of a stage in a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["not reached", "running", "done", "cached", "failed", "cancelled"]
COLOURS: dict[State, str] = {
    "not reached": "#d0d7de",
    "running": "#bf8700",
    "done": "#2da44e",
    "cached": "#8c959f",
    "failed": "#cf222e",
    "cancelled": "#bc4c00",
}


@dataclass
class Outcome:
    """State, seconds over all attempts, and the one sentence of a fault."""

    state: State = "not reached"
    seconds: float = 0.0
    attempts: int = 0
    error: str = ""

    @property
    def ended_well(self) -> bool:
        """Whether the stage's outputs and figures are those of this run."""
        return self.state in ("done", "cached")
