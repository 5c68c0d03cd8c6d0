"""Partial rollouts: responses that take several iterations, with the tokens and the update that they should have."""

import json
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch
from micro import CharTokenizer, micro_model
from test_loop import EPISODES, PROMPTS, after_samples, assert_equal, gradients, iterate, make_training, run

from k2core.inference.constraint import Constraint
from k2core.inference.sampler import generate
from k2core.inference.under_way import Sample, begin, go_on, repeats

TOKENIZER = CharTokenizer()
TEXTS = [replace(prompt, max_new_tokens=24) for prompt in PROMPTS]
"""Prompts to long responses; about one in eight tokens ends one."""
LONG = {"iterations": 6, "prompts": 3, "samples": 4, "pause_after": 2}


def sampled(model, prompts, most=None, paused=lambda sample: sample):
    """All samples of `prompts` to their ends, at most `most` tokens at a time; and how often they were paused."""
    samples = [each for group in begin(prompts, 4, seed=3) for each in group]
    on = partial(go_on, model, TOKENIZER, temperature=1.0, context=64)
    on(samples, most=most)
    pauses = 0
    while not all(each.ended for each in samples):
        pauses += 1
        samples = [paused(each) for each in samples]
        on(samples, most=most, version=pauses)
    return samples, pauses


def through_json(sample: Sample) -> Sample:
    return Sample.restored(sample.prompt, json.loads(json.dumps(sample.state())), TOKENIZER)


@pytest.mark.parametrize("prompts", [PROMPTS, EPISODES], ids=["replies", "episodes"])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_with_unchanged_weights_a_paused_response_is_the_uninterrupted_one(prompts, most):
    model = micro_model()
    whole, none = sampled(model, prompts)
    parts, pauses = sampled(model, prompts, most, through_json)
    assert none == 0 and pauses >= 1
    for expected, found in zip(whole, parts, strict=True):
        assert (found.tokens, found.mask, found.truncated) == (expected.tokens, expected.mask, expected.truncated)
        assert found.log_probs == pytest.approx(expected.log_probs, abs=1e-5)
        mine, wanted = (each.result(TOKENIZER, -0.5) for each in (found, expected))
        assert (mine.reward, mine.passed, mine.text) == (wanted.reward, wanted.passed, wanted.text)
        assert sorted(found.versions) == found.versions and len(found.versions) == len(found.tokens)
        had = [sum(s for s, v in zip(found.mask, found.versions, strict=True) if v == n) for n in set(found.versions)]
        assert max(had) <= most


class Ascending:
    """Only letters not below the last one, then the end."""

    def begin(self) -> "Ascending":
        made = Ascending()
        made.last = 5
        return made

    def allow(self, words) -> None:
        words[:] = sum(1 << token for token in range(self.last, 8)) | 2

    def advance(self, token: int) -> None:
        self.last = max(self.last, token)


def test_a_constraint_goes_on_where_it_was():
    model, held = micro_model(), Ascending()
    constraint: Constraint = held
    options = {"temperature": 1.0, "stop_ids": {1}, "constraints": [constraint] * 8}
    names = [f"s{number}" for number in range(8)]
    whole = generate(model, [(3, 4)] * 8, max_new_tokens=9, streams=names, **options)
    first = generate(model, [(3, 4)] * 8, max_new_tokens=3, streams=names, **options)
    open_ = [n for n, each in enumerate(first) if each.finish_reason == "length"]
    assert open_
    rest = generate(
        model, [(3, 4, *first[n].tokens) for n in open_], max_new_tokens=6, temperature=1.0, stop_ids={1},
        constraints=[constraint] * len(open_), streams=[names[n] for n in open_], begun=[3] * len(open_),
    )  # fmt: skip
    for n, more in zip(open_, rest, strict=True):
        assert first[n].tokens + more.tokens == whole[n].tokens


def test_stale_tokens_keep_the_log_probabilities_of_the_policy_that_sampled_them(tmp_path):
    """The gradient is that of the whole objective with those, and it moves responses of equal rewards, too."""
    tau = 0.3
    training = make_training(tmp_path, **LONG, tau=tau, ptx_weight=0.0)
    training.prompts = TEXTS
    row: dict[str, float] = {}
    seen: dict[str, object] = {}
    roll_out, step = training._roll_out, training.optimizer.step

    def rolled(random, temperature):
        numbers, groups = roll_out(random, temperature)
        seen["prompts"], seen["groups"] = [training.prompts[number] for number in numbers], groups
        return numbers, groups

    def stepped(scale, norm):
        seen["weights"] = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
        seen["gradients"] = gradients(training.model)
        return step(scale, norm)

    training._roll_out, training.optimizer.step = rolled, stepped
    updates: list[int] = []
    for iteration in range(40):
        row = iterate(training)
        oldest = min((each.versions[0] for group in seen["groups"] for each in group), default=iteration)
        if any(oldest <= update < iteration for update in updates):
            break
        updates += [iteration] if "grad_norm" in row else []
    assert row["stale"] > 0
    model, ratios, gains = micro_model(), [], []
    model.load_state_dict(seen["weights"])
    for prompt, group in zip(seen["prompts"], seen["groups"], strict=True):
        middle = sum(rollout.reward for rollout in group) / len(group)
        for rollout in group:
            tokens = torch.tensor([[*prompt.tokens, *rollout.tokens]])
            log_probs = model(tokens)[0].log_softmax(-1)[len(prompt.tokens) - 1 : -1]
            chosen = log_probs.gather(1, tokens[0, len(prompt.tokens) :, None])
            ratios.append(chosen.sum() - sum(rollout.log_probs))
            gains.append(rollout.reward - middle)
    stale = [r.versions[0] < training.step - 1 for group in seen["groups"] for r in group]
    found = [float(ratio.detach()) for ratio in ratios]
    off = [abs(ratio) for ratio, old in zip(found, stale, strict=True) if old]
    assert max(off) > 1e-3, "the policy changed within the response"
    assert all(abs(ratio) < 1e-4 for ratio, old in zip(found, stale, strict=True) if not old)
    assert row["log_ratio/abs"] == pytest.approx(sum(map(abs, found)) / len(found), rel=1e-3)
    squares = [(gain - tau * ratio).square() for gain, ratio in zip(gains, ratios, strict=True)]
    (torch.stack(squares).mean() / (2 * tau)).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(seen["gradients"][name], gradient, atol=2e-5, rtol=1e-3, msg=name)


def test_a_prompt_under_way_is_one_of_the_iterations_prompts(tmp_path):
    training = make_training(tmp_path, **LONG)
    training.prompts = TEXTS
    rows, ended = [], []
    roll_out = training._roll_out

    def rolled(random, temperature):
        before = [number for number, _ in training.under_way]
        numbers, groups = roll_out(random, temperature)
        after = [number for number, _ in training.under_way]
        assert len(numbers) + len(after) == 3 and len({*numbers, *after}) == 3
        assert set(before) <= {*numbers, *after}
        ended.extend(numbers)
        return numbers, groups

    training._roll_out = rolled
    for _ in range(6):
        rows.append(iterate(training))
    assert rows[0]["paused"] > 0 and ended and any("passed" in row for row in rows)


@pytest.mark.parametrize("episodes", [False, True])
def test_what_is_paused_survives_sigterm(tmp_path, episodes):
    def made(folder):
        training = make_training(folder, **LONG, checkpoint_every=2)
        training.prompts = EPISODES if episodes else TEXTS
        return training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = made(tmp_path / "whole")
        rows = run(whole, tmp_path / "whole")
        stopped = made(tmp_path / "stopped")
        after_samples(stopped, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit, match="143"):
            run(stopped, tmp_path / "stopped")
        assert stopped.under_way
        resumed = made(tmp_path / "stopped")
        assert run(resumed, tmp_path / "stopped") == rows
    finally:
        torch.set_num_threads(threads)
    assert_equal(resumed, whole)
    assert resumed.state() == whole.state()


def test_a_response_in_a_loop_is_cut_at_a_pause(tmp_path):
    assert repeats([5, 6, 7, 6, 7, 6, 7], 3) and repeats([5] * 4, 4) and not repeats([5, 6, 7, 6, 7, 6], 3)
    assert not repeats([], 2) and not repeats([5], 2)
    training = make_training(tmp_path, iterations=2, prompts=6, samples=16, pause_after=3, loops=2)
    cut = []
    roll_out = training._roll_out

    def rolled(random, temperature):
        numbers, groups = roll_out(random, temperature)
        cut.extend(each for group in groups for each in group if each.truncated)
        cut.extend(each for _, group in training.under_way for each in group if each.truncated)
        return numbers, groups

    training._roll_out = rolled
    iterate(training)
    short = [each for each in cut if len(each.tokens) < 6]
    assert short and all(repeats(each.tokens, 2) for each in short)
    assert all(getattr(each, "reward", 0.0) == 0.0 for each in short), "the reward of what is over its budget"
