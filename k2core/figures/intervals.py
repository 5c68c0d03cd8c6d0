"""Values with 95% intervals: Wilson's for a share, a bootstrap over items for anything averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from random import Random
from statistics import fmean

Score = dict[str, float]
"""`value` and, where there is an interval, its `low` and `high` end."""
Z = 1.959964


def wilson(passed: int, total: int) -> tuple[float, float]:
    """Wilson's score interval of passed/total; (0, 1) where nothing was tried."""
    if total == 0:
        return 0.0, 1.0
    share = passed / total
    centre = (share + Z * Z / (2 * total)) / (1 + Z * Z / total)
    half = Z / (1 + Z * Z / total) * sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(groups: Sequence[Sequence[float]], seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Percentile interval of the mean of the groups' means, each group resampled with replacement.

    One group gives the interval of a mean; several (one per environment) that of an average over environments.

    Raises:
        ValueError: there is no group, or one is empty.
    """
    if not groups or not all(groups):
        raise ValueError("no values to resample")
    random = Random(f"{seed}/bootstrap")
    means = sorted(
        sum(sum(random.choices(values, k=len(values))) / len(values) for values in groups) / len(groups)
        for _ in range(resamples)
    )
    return means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1]


def share(passed: int, total: int) -> Score:
    """`passed` of `total`; 0 of 0 is 0, and could be anything."""
    low, high = wilson(passed, total)
    return {"value": passed / total if total else 0.0, "low": low, "high": high}


def mean(groups: list[list[float]], seed: int) -> Score:
    """The mean of the groups' means. Where all values are 0, or all 1, resampling says nothing: Wilson's interval."""
    every = [value for values in groups for value in values]
    if set(every) in ({0.0}, {1.0}):
        return share(round(sum(every)), len(every))
    return _averaged(groups, seed)


def gain(before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]], seed: int) -> Score:
    """Mean gain of `after` over `before`, values of the same items by group.

    The interval is over per-item differences, because items that are hard for one model tend to be hard for the other.

    Raises:
        ValueError: they are not the same items.
    """
    if {name: len(values) for name, values in before.items()} != {name: len(v) for name, v in after.items()}:
        raise ValueError("two models can only be compared on the same items; evaluate both again")
    return _averaged([[b - a for a, b in zip(before[name], after[name], strict=True)] for name in sorted(before)], seed)


def _averaged(groups: list[list[float]], seed: int) -> Score:
    low, high = bootstrap(groups, seed)
    return {"value": fmean(fmean(values) for values in groups), "low": low, "high": high}
