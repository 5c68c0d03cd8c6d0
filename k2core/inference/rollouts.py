"""What is responded to, and what became of a response; `under_way.py` samples.

Every environment has a token budget for a response. A response that does not end within it is cut there and gets
`overlong_reward` whatever it says (K2 §3.2.3: truncate and penalise).

A prompt may be the beginning of an episode: what the environment says to a response follows it, and another response
follows that. The tokens stay as they were sampled, they are never decoded and encoded again; what the environment said
stands between them, masked. An episode that leaves no room in the context for another response counts as cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from k2core.chat.template import encode_dialogue
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.constraint import Constraint

SAMPLER_BATCH = 128


class Episode(Protocol):
    """What answers the responses to one prompt, until it has a reward for all of them."""

    def advance(self, response: str) -> Sequence[int] | None:
        """Token ids that follow a response, up to the next generation prompt; None: the episode has ended."""

    def reward(self) -> float:
        """Reward of the whole, in [0, 1]; 1 means passed."""


@dataclass(frozen=True)
class Prompt:
    """Something to respond to: token ids up to the generation prompt, a budget, and the reward of a response.

    Attributes:
        max_new_tokens: budget of one response.
        score: reward of the response's text; not asked where there is an episode.
        constraint: what the response is held to; None: nothing. An episode's later responses are free.
        begin: starts a fresh episode for each sample; None: one response is all.
    """

    tokens: tuple[int, ...]
    max_new_tokens: int
    score: Callable[[str], float]
    constraint: Constraint | None = None
    begin: Callable[[], Episode] | None = None


@dataclass(frozen=True)
class Rollout:
    """One sampled response, or all of an episode with what the environment said between.

    Attributes:
        log_probs: of the policy that sampled, as in the sampler's `Completion`; 0 where the environment spoke.
        mask: for each token, 1 if the policy sampled it.
        versions: for each token, the number of the policy that sampled it, or that was there when it was said.
    """

    tokens: list[int]
    log_probs: list[float]
    text: str
    reward: float
    passed: bool
    truncated: bool
    mask: list[int]
    versions: list[int] = field(default_factory=list)


def encode_prompt(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> tuple[int, ...]:
    """Token ids of a chat prompt up to and including the generation prompt."""
    return tuple(encode_dialogue(tokenizer, messages, tools, add_generation_prompt=True)[0])
