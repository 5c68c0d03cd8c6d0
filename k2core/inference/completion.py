"""What the sampler returns, and when a response ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

TIMES = 4
"""A response repeats itself if one sequence fills its last tokens at least so many times."""


@dataclass
class Completion:
    """What followed a prompt.

    Attributes:
        tokens: sampled ids; a stop token is the last one.
        log_probs: of each token in nats, at the sampling temperature (at temperature 1 for greedy decoding), among the
            tokens that the prompt's constraint allows: 0 where it leaves no choice.
        finish_reason: "stop" after a stop token, "length" when the budget ended first or the text repeated itself,
            "paused" if there may be more later.
        routes: if they were recorded, the experts of each layer that has some, for each token that was read: those of
            the prompt and all but the last one sampled, [tokens, layers, experts per token]; -1 where none is known.
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: Literal["stop", "length", "paused"]
    routes: np.ndarray | None = None


@dataclass(frozen=True)
class Ends:
    """What ends a completion.

    Attributes:
        most: tokens of it.
        stop_ids: tokens after which it is whole.
        repetition: so many last tokens that only repeat one sequence cut it; None: nothing does.
    """

    most: int
    stop_ids: frozenset[int]
    repetition: int | None = None

    def take(self, completion: Completion, token: int, log_prob: float, pause_at: int) -> bool:
        """Append a token; whether no other follows now. With `pause_at` tokens a completion is paused."""
        completion.tokens.append(token)
        completion.log_probs.append(log_prob)
        if token in self.stop_ids:
            completion.finish_reason = "stop"
            return True
        if len(completion.tokens) == self.most or (self.repetition and repeats(completion.tokens, self.repetition)):
            return True
        if len(completion.tokens) == pause_at:
            completion.finish_reason = "paused"
            return True
        return False


def repeats(tokens: Sequence[int], span: int) -> bool:
    """Whether the last `span` tokens are one sequence, again and again: `TIMES` times or more (K1.5 §2.6.2)."""
    tail = tokens[-span:]
    return len(tail) == span and any(tail[period:] == tail[:-period] for period in range(1, span // TIMES + 1))
