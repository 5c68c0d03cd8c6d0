"""The critic in the loop: it learns from verified pairs, is trusted while it agrees, and survives SIGTERM."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

import pytest
import torch
from micro import CHECKPOINT, SPIKES, CharTokenizer, job_in, micro_config, micro_model, micro_optimizer

from k2core.inference.rollouts import Prompt, Rollout
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.loop import Critic, PolicyTraining
from k2core.rl.preferences import Pair, request_of, verified_pair
from k2core.rl.refinement import Refinement
from k2core.training.dialogues import Dialogue, DialogueSource
from k2core.training.learner import Learner
from k2core.training.setting import Setting

STOP = CharTokenizer.im_end_id


class Words(CharTokenizer):
    """Letters of any text as a few ids; `A` and `B` have their own."""

    def encode(self, text: str) -> list[int]:
        return {"A": [5], "B": [6]}.get(text, [2 + ord(letter) % 3 for letter in text])

    def id_of(self, special: str) -> int:
        return 1


def rollout(text: str, passed: bool, truncated: bool = False) -> Rollout:
    return Rollout([], [], text, float(passed), passed, truncated, [])


def test_a_pair_is_a_reply_that_passed_and_one_that_did_not() -> None:
    call = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>"
        '{"n": 4}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    )
    group = [rollout("7<|im_end|>", False), rollout(call, True), rollout("8<|im_end|>", False)]
    assert verified_pair("add", group, "rollout") == Pair("add", 'add({"n": 4})', "7", "rollout")
    assert verified_pair("add", group[::2], "rollout") is None
    assert verified_pair("add", [rollout("x", False, truncated=True), group[1]], "rollout") is None
    assert request_of([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]) == "u"


def pairs(seed: int, count: int, broken: bool = False) -> list[Pair]:
    """Of two replies the better one has a `c`, the worse one an `a`; in broken pairs it is the other way round."""
    random, found = Random(seed), []
    for _ in range(count):
        both = ["".join(random.choice("b") for _ in range(2)) + letter for letter in "ca"]
        found.append(Pair("q", *(both[::-1] if broken else both), "rollout"))
    return found


def refinement(heldout: list[Pair], count: int = 4) -> Refinement:
    torch.manual_seed(0)
    model = micro_model()
    return Refinement(Learner(model, micro_optimizer(model)), Words(), heldout, asked=3, pairs=count, context=512)


def test_it_learns_what_the_verifiers_say_and_unlearns_it() -> None:
    critic = refinement(pairs(0, 8))
    for step in range(30):
        assert critic.learn(pairs(step, 4), Random(step))["critique/loss"] > 0
    assert critic.agreement() >= 0.9, "the first time all pairs are asked for"
    for step in range(30):
        critic.learn(pairs(step, 4, broken=True), Random(step))
    assert [critic.agreement() for _ in range(3)] == [5 / 8, 2 / 8, 0.0], "then three in turn: 3, 3 and the last 2"


def test_without_pairs_it_learns_nothing_and_its_agreement_is_chance() -> None:
    critic = refinement([])
    before = {name: tensor.clone() for name, tensor in critic.model.state_dict().items()}
    assert critic.learn([], Random(0)) == {} and critic.agreement() == 0.5
    critic.pairs = 0
    assert critic.learn(pairs(0, 4), Random(0)) == {}
    assert all(torch.equal(before[name], tensor) for name, tensor in critic.model.state_dict().items())


PROMPTS = [
    Prompt((3, 4, number + 2), 6, lambda text, number=number: float(ord(text[0]) % 2 == number % 2))
    for number in range(6)
]


def make_training(folder: Path, critic: Critic, **changes: object) -> PolicyTraining:
    torch.manual_seed(0)
    model = micro_model()
    ptx = DialogueSource([Dialogue([3, 4, 5, STOP], [0, 0, 1, 1])], context=32, batch_rows=1, seed=0)
    settings = dict(critique_every=1, critique_prompts=2, critique_pairs=2, critique_least=0.6) | changes
    return PolicyTraining(
        Learner(model, micro_optimizer(model)), micro_config(**settings), Setting(job_in(folder), SPIKES, CHECKPOINT),
        7, curriculum=PrioritizedSampler([0.5] * len(PROMPTS), momentum=0.5, floor=0.05), tokenizer=CharTokenizer(),
        prompts=PROMPTS, requests=["q"] * len(PROMPTS), ptx=ptx,
        open_prompts=[Prompt((3, 4), 6, lambda text: 0.0) for _ in range(4)], critic=critic,
    )  # fmt: skip


def test_its_reward_is_off_while_it_disagrees_and_the_log_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    asked: list[int] = []

    def judge(numbers, groups):
        asked.append(training.step)
        return [[float(place) / len(group) for place in range(len(group))] for group in groups]

    critic = Critic(refinement(pairs(0, 8)), judge)
    agreements = iter([0.9, 0.5, 0.59, 0.6])
    critic.refinement.agreement = lambda: next(agreements)
    training = make_training(tmp_path, critic)
    rows = []
    for _ in range(4):
        rows.append(training.advance())
        training.step += 1
    assert asked == [0, 3]
    assert [row["critique/on"] for row in rows] == [1.0, 0.0, 0.0, 1.0]
    assert [row["critique/agreement"] for row in rows] == [0.9, 0.5, 0.59, 0.6]
    assert ["critique/spread" in row for row in rows] == [True, False, False, True]
    said = [line for line in capsys.readouterr().out.splitlines() if "critic" in line]
    assert [line.rpartition(" ")[2] for line in said] == ["on", "off", "on"]
    assert (
        "iteration 1: the critic agrees with the verifiers on 50% of 8 held-out pairs, rl.critique_least is 60%"
        in said[1]
    )


def test_sigterm_loses_nothing_of_the_critic(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def fresh(name: str) -> PolicyTraining:
        critic = Critic(refinement(pairs(0, 4)), lambda numbers, groups: [[0.5] * len(group) for group in groups])
        return make_training(tmp_path / name, critic, critique_least=0.0)

    whole, stopped = fresh("whole"), fresh("stopped")
    untaught = {name: tensor.clone() for name, tensor in whole.weights().state_dict().items() if "critic" in name}
    whole.run(tmp_path / "whole" / "plot.csv")
    refine = stopped._refine

    def killed(*arguments):
        if stopped.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return refine(*arguments)

    stopped._refine = killed
    with pytest.raises(SystemExit, match="143"):
        stopped.run(tmp_path / "stopped" / "plot.csv")
    resumed = fresh("stopped")
    resumed.run(tmp_path / "stopped" / "plot.csv")
    torch.set_num_threads(threads)
    found, wanted = resumed.weights().state_dict(), whole.weights().state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert not all(torch.equal(wanted[name], tensor) for name, tensor in untaught.items()), "it learnt"
    assert (tmp_path / "stopped/plot.csv").read_bytes() == (tmp_path / "whole/plot.csv").read_bytes()
