"""The mixture: exact over the whole, close at any point, faults named."""

from __future__ import annotations

from collections import Counter

import pytest

from k2core.corpus.mixture import deal_rows

WEIGHTS = {"web": 0.3, "code": 0.3, "math": 0.15, "knowledge": 0.25}


def test_shares_are_exact() -> None:
    assert Counter(deal_rows(WEIGHTS, 200)) == {"web": 60, "code": 60, "math": 30, "knowledge": 50}
    assert deal_rows(WEIGHTS, 50) == deal_rows({name: 10 * w for name, w in WEIGHTS.items()}, 200)[:50]


def test_shares_hold_at_any_point() -> None:
    rows = deal_rows(WEIGHTS, 300)
    for end in range(1, 300):
        counts = Counter(rows[:end])
        for name, weight in WEIGHTS.items():
            assert -len(WEIGHTS) < counts[name] - weight * end <= 1


def test_no_weight_means_never_and_nonsense_is_refused() -> None:
    assert set(deal_rows({"web": 1.0, "code": 0.0}, 20)) == {"web"}
    for weights in ({"web": 0.0}, {"web": -1.0, "code": 2.0}, {}):
        with pytest.raises(ValueError, match="must not be negative"):
            deal_rows(weights, 4)
