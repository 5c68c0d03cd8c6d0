"""Schedules: ends, shapes, and what cannot be."""

from __future__ import annotations

import pytest

from k2core.optim.learning_rate import make_rates


def test_warm_up_then_constant():
    rate = make_rates("constant", steps=10, start=1.0, end=1.0, warmup_steps=4)
    assert [rate(step) for step in range(10)] == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)


@pytest.mark.parametrize(("shape", "middle"), [("cosine", 0.55), ("linear", 0.55)])
def test_decay_reaches_both_ends(shape, middle):
    rate = make_rates(shape, steps=11, start=1.0, end=0.1)
    values = [rate(step) for step in range(11)]
    assert (values[0], values[5], values[10]) == pytest.approx((1.0, middle, 0.1))
    assert values == sorted(values, reverse=True)
    assert rate(99) == pytest.approx(0.1)


def test_cosine_is_flat_at_its_ends_and_linear_is_not():
    cosine, linear = (make_rates(shape, steps=101, start=1.0, end=0.0) for shape in ("cosine", "linear"))
    assert 1 - cosine(1) < 0.1 * (1 - linear(1)) and cosine(99) < 0.1 * linear(99)


@pytest.mark.parametrize(
    ("shape", "steps", "end", "warmup"), [("linear", 5, 0.0, 5), ("constant", 5, 0.5, 0), ("cosine", 0, 0.0, 0)]
)
def test_impossible_schedules_are_refused(shape, steps, end, warmup):
    with pytest.raises(ValueError, match=r"steps|constant"):
        make_rates(shape, steps=steps, start=1.0, end=end, warmup_steps=warmup)


def test_one_step():
    assert make_rates("linear", steps=1, start=1.0, end=0.0)(0) == 1.0
