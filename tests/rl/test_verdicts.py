"""A reward that crashes or hangs is 0 with its reason, and the others are as they were; what must stop a stage does."""

import threading
import time

import pytest
from micro import CharTokenizer, micro_model
from test_loop import PROMPTS, Echo, iterate, make_training

from k2core.inference import verdicts
from k2core.inference.rollouts import Prompt, sample
from k2core.inference.verdicts import Failed, each_apart
from k2core.sandbox.base import SandboxError
from k2core.stage import StageError


def test_results_come_in_order_and_several_at_once():
    met = threading.Barrier(3, timeout=20)
    made = each_apart([lambda number=number: (met.wait(), number)[1] for number in range(3)])
    assert made == [0, 1, 2] and each_apart([]) == []


def test_a_crash_and_a_hang_are_reasons_and_others_have_their_results(monkeypatch):
    monkeypatch.setattr(verdicts, "SECONDS", 0.5)
    monkeypatch.setattr(verdicts, "AT_ONCE", 2)
    hangs = threading.Event()
    begun = time.monotonic()
    made = each_apart([lambda: 1, hangs.wait, lambda: 1 // 0, hangs.wait, *[lambda: 2] * 9])
    assert time.monotonic() - begun < 5
    hangs.set()
    late = Failed("no verdict within 0.5 s")
    assert made == [1, late, Failed("ZeroDivisionError: integer division or modulo by zero"), late, *[2] * 9]


@pytest.mark.parametrize("error", [SandboxError("no sandbox here"), ConnectionError("no judge")])
def test_what_is_no_verdict_on_a_response_stops_the_stage(error):
    def refuses():
        raise error

    with pytest.raises(type(error), match=str(error)):
        each_apart([lambda: 1, refuses])


def crashes(text: str) -> float:
    if ord(text[0]) % 2:
        raise ValueError("no number\nat all")
    return 1.0


def test_the_loop_goes_on_and_says_why_a_reward_is_zero(tmp_path, capsys):
    training = make_training(tmp_path, samples=8)
    training.prompts = [Prompt(prompt.tokens, 6, crashes) for prompt in PROMPTS]
    row = iterate(training)
    assert 0 < row["reward/failed"] < 1 and row["reward/mean"] <= 1 - row["reward/failed"]
    said = "iteration 0: a reward is 0, for its environment failed: ValueError: no number at all"
    assert said in capsys.readouterr().out


class Falls(Echo):
    def advance(self, response: str) -> list[int] | None:
        raise KeyError("state")


def test_an_episode_that_falls_over_is_over(tmp_path):
    training = make_training(tmp_path, samples=8)
    training.prompts = [Prompt(prompt.tokens, 6, lambda text: 1.0, begin=Falls) for prompt in PROMPTS]
    row = iterate(training)
    assert row["reward/failed"] > 0 and row["passed"] == 0 and row["turns"] == 1


def test_outside_the_loop_it_is_an_error():
    settings = dict(samples=8, temperature=1.0, seed=0, overlong_reward=0.0)
    with pytest.raises(StageError, match=r"an environment could not judge a response .ValueError: no number at all"):
        sample(micro_model(), CharTokenizer(), [Prompt((3, 4, 2), 6, crashes)], **settings)
