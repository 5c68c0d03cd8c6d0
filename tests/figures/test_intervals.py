"""Intervals: known values, and coverage by simulation."""

from random import Random

import pytest

from k2core.figures.intervals import bootstrap, gain, mean, wilson


def test_wilson_known_values():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)  # Wilson 1927; R: binom::binom.wilson
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_intervals_cover_the_truth_about_95_times_in_100():
    random, hits = Random(1), {"wilson": 0, "bootstrap": 0}
    for trial in range(300):
        values = [float(random.random() < 0.4) for _ in range(50)]
        for name, (low, high) in (
            ("wilson", wilson(int(sum(values)), 50)),
            ("bootstrap", bootstrap([values], trial, resamples=200)),
        ):
            hits[name] += low <= 0.4 <= high
    assert 0.90 <= hits["wilson"] / 300 <= 1.0
    assert 0.88 <= hits["bootstrap"] / 300 <= 1.0


def test_bootstrap_is_reproducible_and_needs_values():
    assert bootstrap([[0.0, 1.0, 0.5]], 3) == bootstrap([[0.0, 1.0, 0.5]], 3)
    with pytest.raises(ValueError, match="no values"):
        bootstrap([[1.0], []], 0)


def test_bootstrap_of_several_groups_is_about_the_mean_of_means():
    low, high = bootstrap([[1.0] * 90, [0.0] * 10], 0)
    assert low == high == 0.5


def test_ten_failures_leave_room_and_no_difference_leaves_none():
    none, all_ = mean([[0.0] * 6, [0.0] * 4], 0), mean([[1.0] * 10], 0)
    assert none["value"] == none["low"] == 0 and none["high"] == pytest.approx(0.2775, abs=1e-4)
    assert all_["value"] == 1 and all_["high"] == pytest.approx(1) and all_["low"] == pytest.approx(0.7225, abs=1e-4)
    assert gain({"a": [0.5, 1.0]}, {"a": [0.5, 1.0]}, 0) == {"value": 0.0, "low": 0.0, "high": 0.0}
