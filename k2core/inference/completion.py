"""What the sampler returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class Completion:
    """What followed a prompt.

    Attributes:
        tokens: sampled ids; a stop token is the last one.
        log_probs: of each token in nats, at the sampling temperature (at temperature 1 for greedy decoding), among the
            tokens that the prompt's constraint allows: 0 where it leaves no choice.
        finish_reason: "stop" after a stop token, "length" when the budget ended first.
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: Literal["stop", "length"]
