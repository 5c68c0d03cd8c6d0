"""Prioritised sampling: proportional to 1 - s, different items, state round trip."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2core.rl.curriculum import PrioritizedSampler, moderate

RATES = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def sampler(success, momentum=0.5, floor=0.05):
    return PrioritizedSampler(success, momentum=momentum, floor=floor)


@given(RATES)
def test_probabilities_are_proportional_to_failure(success):
    probabilities = sampler(success).probabilities()
    assert sum(probabilities) == pytest.approx(1)
    weights = [max(1 - rate, 0.05) for rate in success]
    assert probabilities == pytest.approx([weight / sum(weights) for weight in weights])


def test_first_draws_follow_the_probabilities():
    curriculum = sampler([0.0, 0.5, 0.9, 1.0])
    random = Random(0)
    counts = Counter(curriculum.draw(1, random)[0] for _ in range(20_000))
    for item, probability in enumerate(curriculum.probabilities()):
        assert counts[item] / 20_000 == pytest.approx(probability, abs=0.012)


@given(RATES, st.integers(1, 30), st.integers(0, 5))
def test_a_draw_has_no_item_twice(success, count, seed):
    drawn = sampler(success).draw(count, Random(seed))
    assert len(drawn) == len(set(drawn)) == min(count, len(success))


def test_solved_items_fall_back_to_uniform():
    assert sampler([1.0] * 4).probabilities() == pytest.approx([0.25] * 4)


def test_success_is_a_running_mean_and_survives_a_round_trip():
    curriculum = sampler([0.5, 0.5], momentum=0.75)
    curriculum.update(1, 1.0)
    assert curriculum.success == [0.5, 0.625]
    other = sampler([0.0, 0.0])
    other.load_state_dict(curriculum.state_dict())
    assert other.draw(2, Random(3)) == curriculum.draw(2, Random(3))
    curriculum.update(0, 0.0)
    assert other.success == [0.5, 0.625], "the state must not be shared"
    with pytest.raises(ValueError, match="the state has 2 items, the pool 1"):
        sampler([0.0]).load_state_dict(other.state_dict())


def test_moderate_difficulty():
    assert moderate([0.0, 0.25, 0.5, 1.0], 0.1, 0.9) == [1, 2]
    assert moderate([0.0, 1.0], 0.1, 0.9) == [0, 1]


def test_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="success rates within"):
        sampler([1.5])
    with pytest.raises(ValueError, match="at least one item"):
        sampler([])
