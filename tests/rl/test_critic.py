"""Preferences: both orders, positions cancel, ties, and pairs made from trajectories."""

import json

import pytest

from k2core.rl import critic, preferences
from k2core.rl.critic import Comparison, chances, pairwise_accuracy, verdict, win_rates
from k2core.rl.preferences import Pair, corrupt, trajectory_pairs


def length_judge(bias: float):
    """A critic that likes long replies and, by `bias`, whatever stands first."""

    def judge(model, tokenizer, comparisons, context):
        return [min(1.0, max(0.0, 0.5 + 0.1 * (len(c.first) - len(c.second)) + bias)) for c in comparisons]

    return judge


def test_win_rates_rank_and_do_not_depend_on_position(monkeypatch):
    groups = [("say", ["aaa", "a", "aa"]), ("same", ["x", "x", "x"])]
    rates = {}
    for bias in (0.0, 0.2):
        monkeypatch.setattr(critic, "preferences", length_judge(bias))
        rates[bias] = win_rates(None, None, groups, "long", 100)
    assert rates[0.0] == [pytest.approx(row) for row in rates[0.2]]
    longest, shortest, middle = rates[0.0][0]
    assert longest > middle > shortest
    assert rates[0.0][1] == [0.5, 0.5, 0.5]
    assert sum(rates[0.0][0]) == pytest.approx(1.5), "what one wins another loses"


def test_accuracy_counts_both_orders(monkeypatch):
    pairs = [Pair("q", "long", "s", "gym/x"), Pair("q", "s", "long", "trajectory/rejected")]
    monkeypatch.setattr(critic, "preferences", length_judge(0.15))
    found = chances(None, None, pairs, 100)
    assert found[0] > 0.5 > found[1]
    assert pairwise_accuracy(pairs, found) == {"all": 0.5, "gym": 1.0, "trajectory": 0.0}
    monkeypatch.setattr(critic, "preferences", lambda m, t, comparisons, c: [0.9] * len(comparisons))
    assert pairwise_accuracy(pairs, chances(None, None, pairs, 100))["all"] == 0.5, "always saying A is chance"


def test_verdict_names_the_better_reply():
    pair = Pair("q", "good", "bad", "gym/x")
    for first, letter in ((True, "A"), (False, "B")):
        _, question, answer = verdict(pair.comparison(first), first)
        assert answer["content"] == letter
        assert f"{letter}: good" in question["content"]


def trajectory(number, place, task="t1"):
    call = {
        "id": "functions.add:0",
        "type": "function",
        "function": {"name": "add", "arguments": json.dumps({"place": place})},
    }
    return {
        "id": str(number),
        "task_id": task,
        "tools": [],
        "messages": [
            {"role": "user", "content": "Add it"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "done", "tool_call_id": "functions.add:0"},
            {"role": "assistant", "content": "Done."},
        ],
    }


def test_trajectory_pairs_match_tasks_and_break_calls():
    good, bad, other = trajectory(1, 4), trajectory(2, 9), trajectory(3, 7, task="t2")
    pairs = trajectory_pairs([good], [bad, other], seed=0)
    assert [pair.source for pair in pairs] == ["trajectory/rejected", "trajectory/changed"]
    assert pairs[0].better == 'add({"place": 4}) | Done.'
    assert pairs[0].worse == 'add({"place": 9}) | Done.'
    assert pairs[1].worse != pairs[1].better
    assert good == trajectory(1, 4), "the original must stay whole"


def test_corruption_is_reproducible_and_never_silent():
    from random import Random

    assert corrupt("1 2 3", Random(5)) == corrupt("1 2 3", Random(5))
    assert sum(corrupt("7", Random(seed)) == "7" for seed in range(50)) == 0


def test_comparison_is_a_plain_value():
    assert preferences.Pair("q", "a", "b", "s").comparison(True) == Comparison("q", "a", "b", critic.RUBRIC)


def test_preferences_are_the_models_probabilities():
    import torch
    from micro import CharTokenizer, micro_model

    class Tokens(CharTokenizer):
        def encode(self, text):
            return {"A": [5], "B": [6]}.get(text, [2 + ord(letter) % 6 for letter in text])

        def id_of(self, special):
            return 1

    torch.manual_seed(0)
    model, tokenizer = micro_model(), Tokens()
    asked = [Comparison("q", "x" * n, "y", critic.RUBRIC) for n in (1, 5, 3)]
    together = critic.preferences(model, tokenizer, asked, 400)
    for comparison, got in zip(asked, together, strict=True):
        logits = model(torch.tensor([critic.encode(tokenizer, comparison)]))[0, -1]
        assert got == pytest.approx(float(logits[[5, 6]].softmax(0)[0]), abs=1e-5)
    assert critic.preferences(model, tokenizer, asked, 20) == [0.5, 0.5, 0.5], "too long to read: undecided"
