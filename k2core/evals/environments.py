"""Pass rates on items of an environment, from greedy and sampled responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from k2core.gym.base import Environment, Item, Split
from k2core.gym.prompts import prompt_of
from k2core.inference.rollouts import Rollout, sample

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.inference.enforcer import Enforcer
    from k2core.model.transformer import Transformer

Chosen = tuple[str, Environment, Item]
"""An environment's name, itself, and one of its items."""


@dataclass(frozen=True)
class Attempt:
    """All responses to one item."""

    item: Item
    rollouts: Sequence[Rollout]

    @property
    def passed(self) -> int:
        """How many of them passed."""
        return sum(rollout.passed for rollout in self.rollouts)


def attempt(
    model: Transformer,
    tokenizer: Tokenizer,
    environments: Mapping[str, Environment],
    *,
    items: int,
    samples: int,
    temperature: float,
    seed: int,
    split: Split = "heldout",
    enforcer: Enforcer | None = None,
) -> dict[str, list[Attempt]]:
    """`samples` responses to each of the first `items` items of every environment (fewer if there are fewer).

    One without items is left out.

    The items depend on `seed` alone, so every model is asked the same. An `enforcer` holds the calls of each response
    to the item's tools.
    """
    chosen = chosen_items(environments, items, seed, split)
    prompts = [prompt_of(environment, item, tokenizer, enforcer) for _, environment, item in chosen]
    groups = sample(model, tokenizer, prompts, samples=samples, temperature=temperature, seed=seed, overlong_reward=0.0)
    return by_environment(chosen, groups)


def chosen_items(
    environments: Mapping[str, Environment], items: int, seed: int, split: Split = "heldout"
) -> list[Chosen]:
    """The first `items` items of every environment (fewer if there are fewer), the same for every model."""
    return [
        (name, environment, environment.item(seed, split, index))
        for name, environment in sorted(environments.items())
        for index in range(min(items, environment.size(split)))
    ]


def by_environment(chosen: Sequence[Chosen], groups: Sequence[Sequence[Rollout]]) -> dict[str, list[Attempt]]:
    """The responses to `chosen` items, by the environments' names."""
    attempts: dict[str, list[Attempt]] = {name: [] for name, _, _ in chosen}
    for (name, _, item), group in zip(chosen, groups, strict=True):
        attempts[name].append(Attempt(item, group))
    return attempts


def pass_rate(attempts: Sequence[Attempt]) -> float:
    """Share of responses that passed: pass@1."""
    return fmean(attempt.passed / len(attempt.rollouts) for attempt in attempts)
