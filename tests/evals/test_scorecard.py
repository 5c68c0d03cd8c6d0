"""The scorecard's names and values from attempts with known outcomes."""

import pytest

from k2core.evals.benchmarks.verifiable_tasks import pass_rates, readable, task_scores
from k2core.evals.environments import Attempt, pass_rate
from k2core.figures.intervals import gain
from k2core.gym.base import Item, answer, question
from k2core.inference.rollouts import Rollout


def attempt(*passed):
    item = Item("k", question("q"), answer("a"))
    return Attempt(item, [Rollout([1], [0.0], "a" if ok else "b", float(ok), ok, False, [1]) for ok in passed])


SAMPLED = {
    "one": [attempt(True, True), attempt(True, False)],
    "two": [attempt(False, False), attempt(False, True), attempt(False, False), attempt(False, False)],
}
GREEDY = {"one": [attempt(True), attempt(True)], "two": [attempt(False)] * 4}


def test_values_are_means_over_environments_and_lie_in_their_intervals():
    scores = task_scores(GREEDY, SAMPLED, seed=0)
    values = {name: score["value"] for name, score in scores.items()}
    assert values["tasks/pass_rate/one"] == 0.75 == pass_rate(SAMPLED["one"])
    assert values["tasks/pass_rate/two"] == 0.125
    assert values["tasks/pass_rate"] == pytest.approx((0.75 + 0.125) / 2)
    assert values["tasks/pass_at_2/one"] == 1.0
    assert values["tasks/pass_hat_2/one"] == 0.5
    assert values["tasks/greedy"] == 0.5
    assert all(0 <= score["low"] <= score["value"] <= score["high"] <= 1 for score in scores.values())


def test_readable_has_the_first_items_of_each():
    rows = readable(SAMPLED, 1)
    assert [(row["environment"], row["score"]) for row in rows] == [("one", 1.0), ("two", 0.0)]
    assert rows[0]["prompt"] == "q"


def test_a_gain_is_of_the_same_items():
    values = pass_rates(SAMPLED)
    assert values == {"one": [1.0, 0.5], "two": [0.0, 0.5, 0.0, 0.0]}
    hard_and_easy = {"one": [0.0, 1.0] * 50}
    better = {"one": [0.1 + value * 0.9 for value in hard_and_easy["one"]]}
    gained = gain(hard_and_easy, better, seed=0)
    assert gained["value"] == pytest.approx(0.05) and gained["low"] > 0.03  # unpaired, ±0.14
    assert gain(better, hard_and_easy, seed=0)["value"] == pytest.approx(-0.05)
    with pytest.raises(ValueError, match="same items"):
        gain(values, hard_and_easy, seed=0)
