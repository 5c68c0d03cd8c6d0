"""Pass rates on held-out items of the gym.

| name | what | interval |
|---|---|---|
| `tasks/greedy[/ENV]` | share of items passed greedily | Wilson; bootstrap for the mean over environments |
| `tasks/pass_rate[/ENV]` | the same sampled at temperature 1 (pass@1) | bootstrap over items |
| `tasks/pass_at_K[/ENV]`, `tasks/pass_hat_K[/ENV]` | any, all of K samples pass | bootstrap over items |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from k2core.evals.environments import Attempt
from k2core.evals.passk import pass_at_k, pass_hat_k
from k2core.evals.subject import Measured, Subject
from k2core.figures.intervals import Score, mean, share

Attempts = Mapping[str, Sequence[Attempt]]


def measure(subject: Subject) -> Measured:
    """Pass rates, greedy and sampled, and the first greedy responses for a person to read."""
    return Measured(
        task_scores(subject.greedy, subject.sampled, subject.seed),
        {"tasks/pass_rate": pass_rates(subject.sampled)},
        readable(subject.greedy, subject.settings.readable),
    )


def task_scores(greedy: Attempts, sampled: Attempts, seed: int) -> dict[str, Score]:
    """Pass rates of every environment and their mean."""
    samples = len(next(iter(sampled.values()))[0].rollouts)
    measures: dict[str, tuple[Attempts, Callable[[int, int], float]]] = {
        "greedy": (greedy, lambda n, c: c / n),
        "pass_rate": (sampled, lambda n, c: c / n),
        f"pass_at_{samples}": (sampled, lambda n, c: pass_at_k(n, c, samples)),
        f"pass_hat_{samples}": (sampled, lambda n, c: pass_hat_k(n, c, samples)),
    }
    scores: dict[str, Score] = {}
    for measure, (attempts, value) in measures.items():
        values = {
            name: [value(len(attempt.rollouts), attempt.passed) for attempt in tried]
            for name, tried in attempts.items()
        }
        scores[f"tasks/{measure}"] = mean(list(values.values()), seed)
        for name, of_items in values.items():
            scores[f"tasks/{measure}/{name}"] = (
                share(int(sum(of_items)), len(of_items)) if measure == "greedy" else mean([of_items], seed)
            )
    return scores


def pass_rates(sampled: Attempts) -> dict[str, list[float]]:
    """Environment → each item's share of responses that passed."""
    return {name: [attempt.passed / len(attempt.rollouts) for attempt in tried] for name, tried in sampled.items()}


def readable(attempts: Attempts, count: int) -> list[dict[str, Any]]:
    """The first `count` items of each environment for a person to read."""
    return [
        {
            "environment": name,
            "prompt": attempt.item.messages[-1]["content"],
            "gold": attempt.item.gold,
            "completion": attempt.rollouts[0].text,
            "score": attempt.rollouts[0].reward,
            "truncated": attempt.rollouts[0].truncated,
        }
        for name, tried in attempts.items()
        for attempt in tried[:count]
    ]
