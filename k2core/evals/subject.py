"""What a benchmark gets, the model under test with all its responses, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2core.evals.environments import Attempt, attempt
from k2core.evals.settings import Settings
from k2core.figures.intervals import Score
from k2core.gym.base import Environment

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.model.transformer import Transformer


@dataclass(frozen=True)
class Measured:
    """What a benchmark found.

    Attributes:
        scores: name → value and, where there is one, its 95% interval.
        items: score → group → a value per item, behind the scores that models are compared by. All models are asked
            the same items in the same order, so the values of two models are pairs.
        samples: responses for a person to read.
    """

    scores: dict[str, Score]
    items: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A model under test. Responses are made once, by the first benchmark that looks at them.

    Attributes:
        tokens: folder of token shards.
    """

    model: Transformer
    tokenizer: Tokenizer
    tokens: Path
    environments: Mapping[str, Environment]
    settings: Settings
    seed: int

    @cached_property
    def greedy(self) -> dict[str, list[Attempt]]:
        """Environment → one greedy response to each held-out item."""
        return self._attempts(1, 0.0)

    @cached_property
    def sampled(self) -> dict[str, list[Attempt]]:
        """Environment → `samples` responses at temperature 1 to each held-out item."""
        return self._attempts(self.settings.samples, 1.0)

    def _attempts(self, samples: int, temperature: float) -> dict[str, list[Attempt]]:
        return attempt(
            self.model, self.tokenizer, self.environments, items=self.settings.items, samples=samples,
            temperature=temperature, seed=self.seed,
        )  # fmt: skip
