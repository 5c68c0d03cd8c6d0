"""Partial rollouts: a paused sample goes on to its uninterrupted text, and its tokens count as they were sampled."""

import json
import os
import signal
from itertools import pairwise

import pytest
import torch
from micro import CharTokenizer, micro_model
from test_loop import EPISODES, PROMPTS, Echo, assert_equal, iterate, make_training, one_thread, run

from k2core.inference.completion import repeats
from k2core.inference.constraint import WORD
from k2core.inference.responder import Embedded
from k2core.inference.rollouts import Prompt, begin, go_on, sample, settled
from k2core.inference.trajectory import Trajectory
from k2core.storage import StorageError

TOKENIZER, SETTINGS = CharTokenizer(), dict(samples=6, temperature=0.9, overlong_reward=-0.5)
__all__ = ["one_thread"]


class Alternating:
    """A constraint with a memory: letters 5 and 6 in turn, until the end is allowed too."""

    def begin(self):
        return AlternatingState()


class AlternatingState:
    def __init__(self) -> None:
        self.made = 0

    def allow(self, words_W) -> None:
        words_W[:] = 0
        allowed = [5 + self.made % 2, *([1] if self.made > 3 else [])]
        for token in allowed:
            words_W[token // WORD] |= 1 << token % WORD

    def advance(self, token: int) -> None:
        assert token == 5 + self.made % 2
        self.made += 1


HELD = [Prompt((3, 4, 2), 6, lambda text: float(len(text) > 4), Alternating())]


@pytest.mark.parametrize("prompts", [PROMPTS, EPISODES, HELD], ids=["replies", "episodes", "constraint"])
@pytest.mark.parametrize("budget", [1, 2, 4])
def test_unchanged_weights_give_the_uninterrupted_text(prompts, budget):
    """Paused wherever the budget ends, written down as JSON and read again each time."""
    model = micro_model()
    whole = [rollout for group in sample(model, TOKENIZER, prompts, seed=3, **SETTINGS) for rollout in group]
    trajectories = [each for group in begin(prompts, 6, 3) for each in group]
    rounds = 0
    while not all(each.over for each in trajectories):
        before = [len(each.tokens) + len(each.response.tokens) for each in trajectories]
        go_on(
            Embedded(model), TOKENIZER, trajectories, temperature=0.9, context=64, token_budget=budget, version=rounds
        )
        for each, length in zip(trajectories, before, strict=True):
            sampled = [*each.mask, *[1] * len(each.response.tokens)][length:]
            assert sum(sampled) <= budget and (sum(sampled) == budget or each.over or rounds)
        states = [json.loads(json.dumps(each.state())) for each in trajectories]
        trajectories = [
            Trajectory.restored(each.prompt, state, TOKENIZER)
            for each, state in zip(trajectories, states, strict=True)
        ]  # fmt: skip
        rounds += 1
    assert rounds > 1
    for each, wanted in zip(trajectories, whole, strict=True):
        (found,) = settled([each], TOKENIZER, -0.5)
        assert (found.tokens, found.mask, found.reward) == (wanted.tokens, wanted.mask, wanted.reward)
        assert (found.passed, found.truncated) == (wanted.passed, wanted.truncated)
        assert found.log_probs == pytest.approx(wanted.log_probs, abs=1e-5)
        assert len(found.versions) == len(found.tokens) and found.versions == sorted(found.versions)
        assert wanted.stale(0) == 0 and found.stale(0) == sum(
            version > 0 and sampled for version, sampled in zip(found.versions, found.mask, strict=True)
        )


def test_each_tokens_log_probability_is_that_of_the_policy_that_sampled_it():
    torch.manual_seed(1)
    policies = [micro_model(), micro_model()]
    trajectories = [each for group in begin(PROMPTS, 6, 3) for each in group]
    for version, policy in enumerate(policies):
        go_on(Embedded(policy), TOKENIZER, trajectories, temperature=1.0, context=64, token_budget=3, version=version)
    assert all(each.over for each in trajectories)
    seen = set()
    for each in trajectories:
        (rollout,) = settled([each], TOKENIZER, 0.0)
        seen.add(rollout.stale(1))
        text = torch.tensor([[*each.prompt.tokens, *rollout.tokens]])
        for at, (token, version) in enumerate(zip(rollout.tokens, rollout.versions, strict=True)):
            logits = policies[version](text)[0, len(each.prompt.tokens) + at - 1].detach()
            assert float(logits.log_softmax(-1)[token]) == pytest.approx(rollout.log_probs[at], abs=1e-4)
    assert max(seen) == 3, "some are of both policies"


def test_the_objective_counts_tokens_by_the_policy_that_sampled_them(tmp_path):
    """A group half of an earlier policy: the first step's ratios are those to the mixture, by hand."""
    training = make_training(tmp_path, token_budget=3, ptx_weight=0.0, iterations=6)
    rows, ratios, off, learn = [], [], [], training._learn

    def watched(groups, temperature, *, first, number):
        for group in groups:
            if not any(one.advantage or one.rollout.stale(training.step) for one in group.signals):
                continue  # equal rewards, nothing stale: no gradient
            for one in group.signals:
                begins = len(one.prompt.tokens)
                tokens = torch.tensor([[*one.prompt.tokens, *one.rollout.tokens]])
                with torch.no_grad():
                    log_probs = training.model(tokens)[0].log_softmax(-1)[begins - 1 : -1]
                chosen = log_probs.gather(1, tokens[0, begins:, None]).sum()
                ratios.append(float(chosen) - sum(one.rollout.log_probs))
        return learn(groups, temperature, first=first, number=number)

    training._learn = watched
    for _ in range(4):
        ratios.clear()
        rows.append(iterate(training))
        if rows[-1].get("partial/stale") and "log_ratio/abs" in rows[-1]:
            of_all = sum(map(abs, ratios)) / len(ratios)
            assert rows[-1]["log_ratio/abs"] == pytest.approx(of_all, abs=1e-4)
            off.append(of_all)
            assert rows[-1].get("log_ratio/first_max", 0.0) < 1e-4, "the sampler agrees where this policy sampled all"
    assert max(off) > 0.01
    assert any(row["partial/stale"] > 0 for row in rows) and any(row["partial/paused"] > 0 for row in rows)
    for before, after in pairwise(rows):
        assert after["partial/resumed"] == before["partial/paused"]
    assert rows[0]["partial/resumed"] == rows[0]["partial/stale"] == 0


@pytest.mark.parametrize("prompts", [PROMPTS, EPISODES], ids=["replies", "episodes"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_stopped_run_goes_on_with_its_paused_trajectories(tmp_path, at, prompts, one_thread):
    settings = dict(iterations=5, checkpoint_every=2, token_budget=2)

    def make(name: str):
        training = make_training(tmp_path / name, **settings)
        training.prompts = prompts
        return training

    whole = make("whole")
    rows = run(whole, tmp_path / "whole")
    stopped = make("stopped")
    collect, calls = stopped._go_on, []

    def counted(*arguments):
        collect(*arguments)
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped._go_on = counted
    with pytest.raises(SystemExit, match="143"):
        run(stopped, tmp_path / "stopped")
    assert stopped.step == at and stopped.partial.waiting
    resumed = make("stopped")
    assert run(resumed, tmp_path / "stopped") == rows
    assert_equal(resumed, whole)


def test_without_a_budget_that_bites_nothing_changes(tmp_path, one_thread):
    plain, wide = (make_training(tmp_path / str(budget), token_budget=budget) for budget in (None, 60))
    rows = run(plain, tmp_path / "None"), run(wide, tmp_path / "60")
    assert_equal(wide, plain)
    assert b"partial" not in rows[0] and b"partial/stale" in rows[1]


def test_an_environment_that_answers_otherwise_is_told_of(tmp_path):
    model, said = micro_model(), [2]
    prompt = Prompt((3, 4, 2), 6, lambda text: 0.0, begin=lambda: Echo(said=said[0]))
    trajectories = [each for group in begin([prompt], 16, 0) for each in group]
    while not any(each.turn == 1 and not each.over for each in trajectories):
        go_on(Embedded(model), TOKENIZER, trajectories, temperature=1.0, context=64, token_budget=2)
    state = next(each for each in trajectories if each.turn == 1 and not each.over).state()
    Trajectory.restored(prompt, state, TOKENIZER)
    said[0] = 3
    with pytest.raises(StorageError, match="does not answer response 1 of a paused dialogue as it did"):
        Trajectory.restored(prompt, state, TOKENIZER)


def test_what_repeats_itself():
    assert repeats([9, 1, 2, 1, 2, 1, 2, 1, 2], 8) and repeats([5] * 8, 8) and repeats([1, 2, 1, 2, 1, 2, 1, 2, 1], 9)
    assert not repeats([5] * 7, 8) and not repeats([1, 2, 3, 1, 2, 3, 1, 2], 8) and not repeats(list(range(8)), 8)


class OneLetter(Alternating):
    def begin(self):
        return type("State", (), {"allow": lambda _, words: words.fill(1 << 5), "advance": lambda _, token: None})()


@pytest.mark.parametrize("budget", [None, 3])
def test_a_response_that_repeats_itself_is_cut_wherever_it_was_paused(budget):
    model = micro_model()
    long = Prompt((3, 4), 40, lambda text: 1.0, OneLetter())
    ((trajectory,),) = begin([long], 1, 0)
    while not trajectory.over:
        go_on(Embedded(model), TOKENIZER, [trajectory], temperature=1.0, context=64, repetition=8, token_budget=budget)
    (rollout,) = settled([trajectory], TOKENIZER, -0.5)
    assert rollout.tokens == [5] * 8 and rollout.truncated and rollout.reward == -0.5
    ((whole,),) = sample(model, TOKENIZER, [long], seed=0, samples=1, temperature=1.0, overlong_reward=0.0)
    assert len(whole.tokens) == 40
