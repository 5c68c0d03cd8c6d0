"""What may come next in a response, token by token: the sampler's side of constrained decoding.

Shapes: B sequences, V vocabulary, W words of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

WORD = 32
"""Bits per word of a mask; token t is bit t % 32 of word t // 32."""


class State(Protocol):
    """The state of one response."""

    def allow(self, words_W: np.ndarray) -> None:
        """Write into `words_W` (int32) the tokens that may come next, at least one."""

    def advance(self, token: int) -> None:
        """Go on by a token that was allowed."""


class Constraint(Protocol):
    """What a prompt's responses are held to; one constraint may serve many responses at once."""

    def begin(self) -> State:
        """The state of a response before its first token."""


def barred(states: Sequence[State | None], vocabulary: int) -> Tensor:
    """Which tokens `states` do not allow, [B, V], bool; None allows all."""
    words_BW = np.full((len(states), -(-vocabulary // WORD)), -1, dtype=np.int32)
    for words_W, state in zip(words_BW, states, strict=True):
        if state is not None:
            state.allow(words_W)
    barred_BV = 1 - np.unpackbits(words_BW.view(np.uint8), axis=1, count=vocabulary, bitorder="little")
    return torch.from_numpy(barred_BV.view(bool))
