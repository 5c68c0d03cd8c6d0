"""Accuracy and bits of the arms, and their differences, with 95% intervals.

Questions about one article are not independent, and all arms are asked the same ones: the bootstrap resamples
articles, the same for every arm, and within each arm its trainings.

Shapes: Q questions, A articles, R resamples, S trainings of an arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEASURES = {"accuracy": "correct", "bits": "bits"}
"""Figure → where a result has its values, one per question."""
DIFFERENCES = (
    ("one_rephrasing", "raw"), ("all_rephrasings", "raw"), ("all_rephrasings", "one_rephrasing"),
    ("faq", "raw"), ("table", "raw"), ("tutorial", "raw"),
    ("faq", "all_rephrasings"), ("table", "all_rephrasings"), ("tutorial", "all_rephrasings"),
    ("joint", "all_rephrasings"), ("raw", "base"),
)  # fmt: skip


def summarise(
    results: Sequence[Mapping[str, Any]],
    articles_Q: Sequence[int],
    resamples: int,
    seed: int,
    measures: Mapping[str, str] = MEASURES,
    differences: Sequence[tuple[str, str]] = DIFFERENCES,
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure → arm, or `ARM - ARM`, → `value`, `low`, `high`.

    Args:
        results: one per training: `arm`, and the values of each question.
        articles_Q: the number of each question's article, from 0.
        measures: figure → where a result has its values.
        differences: pairs of arms, the second one taken from the first; those with an arm of no training are left out.
    """
    groups_Q = np.asarray(articles_Q)
    asked_A = np.bincount(groups_Q)
    random = np.random.default_rng(seed)
    drawn_RA = random.multinomial(len(asked_A), np.full(len(asked_A), 1 / len(asked_A)), size=resamples)
    totals_R = drawn_RA @ asked_A
    usable_R = totals_R > 0  # an article may have no question
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for measure, key in measures.items():
        values, spread = {}, {}
        for arm in dict.fromkeys(result["arm"] for result in results):
            rows = [np.asarray(result[key], dtype=float) for result in results if result["arm"] == arm]
            sums_SA = np.stack([np.bincount(groups_Q, weights=row, minlength=len(asked_A)) for row in rows])
            weights_RS = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples) / len(rows)
            values[arm] = float(np.mean(rows))
            spread[arm] = ((drawn_RA @ sums_SA.T) * weights_RS).sum(axis=1)[usable_R] / totals_R[usable_R]
        summary[measure] = {arm: _interval(values[arm], spread[arm]) for arm in values}
        for a, b in ((a, b) for a, b in differences if a in values and b in values):
            summary[measure][f"{a} - {b}"] = _interval(values[a] - values[b], spread[a] - spread[b])
    return summary


def by_kind(results: Sequence[Mapping[str, Any]], kinds_Q: Sequence[str]) -> dict[str, dict[str, float]]:
    """Kind of question → its `questions`, and each arm's accuracy."""
    table: dict[str, dict[str, float]] = {}
    for kind in sorted(set(kinds_Q)):
        chosen_Q = np.asarray([other == kind for other in kinds_Q])
        table[kind] = {"questions": float(chosen_Q.sum())}
        for arm in dict.fromkeys(result["arm"] for result in results):
            rows = [np.asarray(result["correct"])[chosen_Q] for result in results if result["arm"] == arm]
            table[kind][arm] = float(np.mean(rows))
    return table


def _interval(value: float, spread_R: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(spread_R, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high)}
