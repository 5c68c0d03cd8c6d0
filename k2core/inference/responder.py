"""What answers prompts for rollouts: the sampler in this process, or whatever else takes and gives token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from k2core.inference.completion import Completion
from k2core.inference.sampler import generate

if TYPE_CHECKING:
    from k2core.inference.constraint import Constraint
    from k2core.model.transformer import Transformer

SAMPLER_BATCH = 128


@dataclass(frozen=True)
class Due:
    """A response that is due, or the rest of it.

    Attributes:
        prompt: token ids up to the generation prompt.
        begun: what there is of the response already.
        now: tokens that it gets now at most.
        stream: name of its random numbers.
        constraint: what it is held to; None: nothing.
    """

    prompt: Sequence[int]
    begun: Completion
    now: int
    stream: str
    constraint: Constraint | None = None


class Responder(Protocol):
    """Goes on with responses."""

    def __call__(
        self, due: Sequence[Due], *, version: int, most: int, temperature: float, stop_id: int, repetition: int | None
    ) -> list[Completion]:
        """Each response with what is new of it, in order.

        Args:
            version: number of the policy that says it.
            most: tokens of a whole response.
            stop_id: the token that ends one.
            repetition: as in `k2core.inference.completion.Ends`.
        """


@dataclass(frozen=True)
class Embedded:
    """The sampler in this process; with `record` responses have their `routes`."""

    model: Transformer
    record: bool = False

    def __call__(
        self, due: Sequence[Due], *, version: int, most: int, temperature: float, stop_id: int, repetition: int | None
    ) -> list[Completion]:
        return generate(
            self.model,
            [each.prompt for each in due],
            max_new_tokens=most,
            temperature=temperature,
            stop_ids={stop_id},
            seed=0,  # the streams have names of their own
            batch_size=SAMPLER_BATCH,
            constraints=[each.constraint for each in due],
            streams=[each.stream for each in due],
            begun=[each.begun for each in due],
            now=[each.now for each in due],
            repetition=repetition,
            record=self.record,
        )
