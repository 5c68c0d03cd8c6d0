"""95% intervals: Wilson's for a share, a bootstrap over items for anything averaged."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from random import Random

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

    One group gives the interval of a mean; several (an environment each) that of an average over environments.

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
