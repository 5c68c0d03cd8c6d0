"""Sampling responses in batches, and what became of each.

Every environment has a token budget for a response. A response that does not end within it is cut there and gets
`overlong_reward` whatever it says (K2 §3.2.3: truncate and penalise).

A prompt may be the beginning of an episode: what the environment says to a response follows it, and another response
follows that. The tokens stay as they were sampled, they are never decoded and encoded again; what the environment said
stands between them, masked. An episode that leaves no room in the context for another response counts as cut.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from k2core.chat.template import encode_dialogue
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.constraint import Constraint
from k2core.inference.sampler import generate

if TYPE_CHECKING:
    from k2core.inference.completion import Completion
    from k2core.model.transformer import Transformer

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
    """

    tokens: list[int]
    log_probs: list[float]
    text: str
    reward: float
    passed: bool
    truncated: bool
    mask: list[int]


@dataclass
class _Going:
    """A sample under way."""

    prompt: Prompt
    episode: Episode | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    truncated: bool = False

    def take(self, completion: Completion, tokenizer: Tokenizer, context: int) -> bool:
        """Take a response, and what the environment says to it; whether another response is due."""
        self._append(completion.tokens, completion.log_probs, 1)
        self.truncated = completion.finish_reason != "stop"
        if self.episode is None or self.truncated:
            return False
        follows = self.episode.advance(tokenizer.decode_reply(completion.tokens))
        if follows is None:
            return False
        used = len(self.prompt.tokens) + len(self.tokens) + len(follows)
        self.truncated = used + self.prompt.max_new_tokens > context
        if not self.truncated:
            self._append(follows, [0.0] * len(follows), 0)
        return not self.truncated

    def _append(self, tokens: Sequence[int], log_probs: Sequence[float], sampled: int) -> None:
        self.tokens += tokens
        self.log_probs += log_probs
        self.mask += [sampled] * len(tokens)

    def ended(self, tokenizer: Tokenizer, overlong_reward: float) -> Rollout:
        """What became of it."""
        text = tokenizer.decode_reply(self.tokens)
        if self.truncated:
            return Rollout(self.tokens, self.log_probs, text, overlong_reward, False, True, self.mask)
        reward = self.prompt.score(text) if self.episode is None else self.episode.reward()
        return Rollout(self.tokens, self.log_probs, text, reward, reward >= 1.0, False, self.mask)


def encode_prompt(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> tuple[int, ...]:
    """Token ids of a chat prompt up to and including the generation prompt."""
    return tuple(encode_dialogue(tokenizer, messages, tools, add_generation_prompt=True)[0])


def sample(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    seed: int,
    overlong_reward: float,
    context: int | None = None,
) -> list[list[Rollout]]:
    """`samples` responses to every prompt, in the prompts' order.

    Prompts of equal budget share the sampler's batches. The result depends on the arguments alone.

    Args:
        context: most tokens of an episode with its prompt; None: as many as the model takes.
    """
    by_budget: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_budget[prompt.max_new_tokens].append(number)
    groups: list[list[Rollout]] = [[] for _ in prompts]
    room = context or model.config.max_position_embeddings
    for budget, numbers in sorted(by_budget.items()):
        repeated = [number for number in numbers for _ in range(samples)]
        all_going = [
            _Going(prompt, prompt.begin() if prompt.begin else None) for prompt in map(prompts.__getitem__, repeated)
        ]
        live, turn = list(range(len(repeated))), 0
        while live:
            completions = generate(
                model,
                [[*all_going[index].prompt.tokens, *all_going[index].tokens] for index in live],
                max_new_tokens=budget,
                temperature=temperature,
                stop_ids={tokenizer.im_end_id},
                seed=seed,
                batch_size=SAMPLER_BATCH,
                constraints=[None if turn else all_going[index].prompt.constraint for index in live],
                streams=[f"{index}/{turn}" if turn else str(index) for index in live],
            )
            live = [
                index
                for index, completion in zip(live, completions, strict=True)
                if all_going[index].take(completion, tokenizer, room)
            ]
            turn += 1
        for number, going in zip(repeated, all_going, strict=True):
            groups[number].append(going.ended(tokenizer, overlong_reward))
    return groups
