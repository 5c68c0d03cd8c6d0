"""One scorecard a model: what it can do on held-out data, each value with a 95% interval.

| name | what | interval |
|---|---|---|
| `heldout/bits_per_byte[/DOMAIN]` | held-out text | none: one pass over fixed tokens |
| `tool_calls/schema_accuracy` | of the greedy responses that call tools, share with valid calls only | Wilson |
| `tool_calls/valid_when_due` | where a call is due, share of greedy responses that call, validly | Wilson |
| `tool_calls/trigger_accuracy` | share of greedy responses that call a tool exactly when a call is due | Wilson |
| `tool_calls/exact` | where a call is due, share of greedy responses with exactly the expected calls | Wilson |
| `tasks/greedy[/ENV]` | share of held-out items passed greedily | Wilson; bootstrap for the mean over environments |
| `tasks/pass_rate[/ENV]` | the same sampled at temperature 1 (pass@1) | bootstrap over items |
| `tasks/pass_at_K[/ENV]`, `tasks/pass_hat_K[/ENV]` | any, all of K samples pass | bootstrap over items |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from k2core.evals.intervals import bootstrap, wilson
from k2core.evals.passk import pass_at_k, pass_hat_k
from k2core.evals.tool_calls import CallCheck

if TYPE_CHECKING:
    from k2core.evals.environments import Attempt

    Attempts = Mapping[str, Sequence[Attempt]]

Score = dict[str, float]


def call_scores(checks: Sequence[CallCheck]) -> dict[str, Score]:
    """The tool-call scores; no calls at all count as accuracy 0."""
    due = [check for check in checks if check.due]
    return {
        "tool_calls/schema_accuracy": _share(sum(check.valid for check in checks), sum(c.called for c in checks)),
        "tool_calls/valid_when_due": _share(sum(check.valid for check in due), len(due)),
        "tool_calls/trigger_accuracy": _share(sum(check.called == check.due for check in checks), len(checks)),
        "tool_calls/exact": _share(sum(check.exact for check in due), len(due)),
    }


def item_scores(checks: Sequence[CallCheck], sampled: Attempts) -> dict[str, dict[str, list[float]]]:
    """The items' values behind the scores that models are compared by: score → environment → a value an item.

    All models are asked the same items in the same order, so the values of two models are pairs.
    """
    return {
        "tool_calls/valid_when_due": {"tool_call": [float(check.valid) for check in checks if check.due]},
        "tasks/pass_rate": {
            name: [attempt.passed / len(attempt.rollouts) for attempt in tried] for name, tried in sampled.items()
        },
    }


def gain(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], seed: int) -> Score:
    """What `after` is above `before`, values of the same items, mean over environments; the interval is of the pairs'
    differences, because an item that is hard for one model is hard for the other.

    Raises:
        ValueError: they are not the same items.
    """
    if {name: len(values) for name, values in before.items()} != {name: len(v) for name, v in after.items()}:
        raise ValueError("two models can only be compared on the same items; evaluate both again")
    return _mean([[b - a for a, b in zip(before[name], after[name], strict=True)] for name in sorted(before)], seed)


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
        scores[f"tasks/{measure}"] = _mean(list(values.values()), seed)
        for name, of_items in values.items():
            scores[f"tasks/{measure}/{name}"] = (
                _share(int(sum(of_items)), len(of_items)) if measure == "greedy" else _mean([of_items], seed)
            )
    return scores


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


def _share(passed: int, total: int) -> Score:
    low, high = wilson(passed, total)
    return {"value": passed / total if total else 0.0, "low": low, "high": high}


def _mean(groups: list[list[float]], seed: int) -> Score:
    low, high = bootstrap(groups, seed)
    return {"value": fmean(fmean(values) for values in groups), "low": low, "high": high}
