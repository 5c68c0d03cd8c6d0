"""The pool that the curriculum draws from: training items that are neither solved nor hopeless (K2 §3.2.1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from k2core.gym.base import Environment
from k2core.gym.prompts import prompt_of
from k2core.inference.rollouts import Prompt, sample
from k2core.machine.processes import gathered, rank
from k2core.rl.config import RLConfig
from k2core.rl.curriculum import PrioritizedSampler, moderate
from k2core.rl.preferences import request_of
from k2core.storage import write_json

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.model.transformer import Transformer


@dataclass(frozen=True)
class Pool:
    """Prompts and the sampler that numbers them; `dropped` were too easy, too hard or too long.

    Attributes:
        requests: what the user wants in each prompt, for the critic; None in an episode, whose replies it cannot read.
    """

    prompts: list[Prompt]
    requests: list[str | None]
    curriculum: PrioritizedSampler
    dropped: int


def build_pool(
    model: Transformer,
    tokenizer: Tokenizer,
    environments: Mapping[str, Environment],
    counts: Mapping[str, int],
    config: RLConfig,
    *,
    seed: int,
    scratch: Path,
) -> Pool:
    """Measure the success rate of `model` on the first `counts[name]` training items and keep the moderate ones.

    The rates are kept in `scratch`, so that a resumed run, whose model has moved on, sees the same pool.
    """
    items = [
        (environments[name], environments[name].item(seed, "train", index))
        for name, count in sorted(counts.items())
        for index in range(min(count, environments[name].size("train")))
    ]
    made = [(prompt_of(environment, item, tokenizer), item) for environment, item in items]
    fits = [(p, item) for p, item in made if len(p.tokens) + p.max_new_tokens <= config.context]
    fitting = [prompt for prompt, _ in fits]
    file = scratch / "pool.json"
    if all(gathered(file.exists())):  # no process writes it before all have looked
        success = json.loads(file.read_text())
    else:
        groups = sample(
            model,
            tokenizer,
            fitting,
            samples=config.probe_samples,
            temperature=config.temperature_start,
            seed=seed,
            overlong_reward=config.overlong_reward,
            context=config.context,
            repetition=config.repetition,
        )
        success = [fmean(rollout.passed for rollout in group) for group in groups]
        if not rank():
            write_json(file, success)
    chosen = moderate(success, config.lowest_rate, config.highest_rate)
    curriculum = PrioritizedSampler(
        [success[number] for number in chosen], momentum=config.success_momentum, floor=config.success_floor
    )
    requests = [None if prompt.begin else request_of(item.messages) for prompt, item in fits]
    return Pool(
        [fitting[number] for number in chosen], [requests[number] for number in chosen], curriculum,
        len(items) - len(chosen),
    )  # fmt: skip
