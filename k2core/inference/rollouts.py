"""Sampling responses in batches, and what became of each.

Every environment has a token budget for a response. A response that does not end within it is cut there and gets
`overlong_reward` whatever it says (K2 §3.2.3: truncate and penalise).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2core.chat.template import encode_dialogue
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.constraint import Constraint
from k2core.inference.sampler import generate

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer

SAMPLER_BATCH = 128


@dataclass(frozen=True)
class Prompt:
    """Something to respond to: token ids up to the generation prompt, a budget, and the reward of a response.

    Responses are held to its constraint, if it has one.
    """

    tokens: tuple[int, ...]
    max_new_tokens: int
    score: Callable[[str], float]
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Rollout:
    """One sampled response. `log_probs` are those of the policy that sampled it, as in the sampler's `Completion`."""

    tokens: list[int]
    log_probs: list[float]
    text: str
    reward: float
    passed: bool
    truncated: bool


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
) -> list[list[Rollout]]:
    """`samples` responses to every prompt, in the prompts' order.

    Prompts of equal budget share the sampler's batches. The result depends on the arguments alone.
    """
    by_budget: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_budget[prompt.max_new_tokens].append(number)
    groups: list[list[Rollout]] = [[] for _ in prompts]
    for budget, numbers in sorted(by_budget.items()):
        repeated = [number for number in numbers for _ in range(samples)]
        completions = generate(
            model,
            [list(prompts[number].tokens) for number in repeated],
            max_new_tokens=budget,
            temperature=temperature,
            stop_ids={tokenizer.im_end_id},
            seed=seed,
            batch_size=SAMPLER_BATCH,
            constraints=[prompts[number].constraint for number in repeated],
        )
        for number, completion in zip(repeated, completions, strict=True):
            text = tokenizer.decode_reply(completion.tokens)
            truncated = completion.finish_reason != "stop"
            score = 0.0 if truncated else prompts[number].score(text)
            reward = overlong_reward if truncated else score
            groups[number].append(
                Rollout(completion.tokens, completion.log_probs, text, reward, score >= 1.0, truncated)
            )
    return groups
