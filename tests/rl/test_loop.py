"""The loop on a micro model: it learns, sampler and trainer agree, and a killed run ends bit-identically."""

import os
import signal

import pytest
import torch
from micro import CHECKPOINT, VOCAB, CharTokenizer, job_in, micro_config, micro_model, micro_optimizer

from k2core.inference.rollouts import Prompt, sample
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.loop import Loop, State, run_loop
from k2core.training.dialogues import Dialogue, DialogueSource
from k2core.training.history import History

STOP = CharTokenizer.im_end_id
# a response passes if it ends within its budget and its first letter has the parity of the prompt's
PROMPTS = [
    Prompt((3, 4, number + 2), 6, lambda text, number=number: float(ord(text[0]) % 2 == number % 2))
    for number in range(6)
]


def make_loop(**changes) -> Loop:
    config = micro_config(**changes)
    torch.manual_seed(0)
    model = micro_model()
    state = State(model, PrioritizedSampler([0.5] * len(PROMPTS), momentum=0.5, floor=0.05), History(config.log_every))
    ptx = DialogueSource(
        [Dialogue([3, 4, n + 2, 6 + n % 2, STOP], [0, 0, 0, 1, 1]) for n in range(6)], context=32, batch_rows=1, seed=0
    )
    return Loop(config, 7, state, tokenizer=CharTokenizer(), optimizer=micro_optimizer(model), prompts=PROMPTS, ptx=ptx)


def test_sampler_and_trainer_agree_on_the_first_step():
    loop = make_loop(minibatches=2, temperature_start=0.7)
    first = loop.iterate()
    assert first["log_ratio/first_max"] < 1e-4
    assert first["log_ratio/last"] > 1e-4, "the second minibatch is off-policy"
    assert 0 < first["entropy"] <= torch.log(torch.tensor(float(VOCAB)))


def test_reward_rises():
    loop = make_loop(iterations=30, prompts=6, samples=16, ptx_weight=0.0)
    passed = [loop.iterate()["passed"] for _ in range(30)]
    assert sum(passed[-5:]) > sum(passed[:5]) + 1.0, passed


def test_over_budget_is_truncated_and_penalised():
    settings = dict(samples=8, temperature=1.0, seed=0, overlong_reward=-0.5)
    groups = sample(micro_model(), CharTokenizer(), PROMPTS[:2], **settings)
    rollouts = [rollout for group in groups for rollout in group]
    cut = [rollout for rollout in rollouts if rollout.truncated]
    assert cut and all(len(r.tokens) == 6 and r.reward == -0.5 and not r.passed for r in cut)
    assert all(r.tokens[-1] == STOP for r in rollouts if not r.truncated)
    assert all(len(r.tokens) == len(r.log_probs) for r in rollouts)


def test_the_optimizer_starts_afresh_each_iteration():
    loop, resets = make_loop(minibatches=2), []
    reset = loop.optimizer.reset_state
    loop.optimizer.reset_state = lambda: (resets.append(loop.state.iteration), reset())
    loop.iterate()
    loop.iterate()
    assert resets == [0, 1]


@pytest.fixture
def one_thread():
    """A forked process has one, and sums are those of as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_killed_run_ends_bit_identically(tmp_path, minibatches, one_thread):
    settings = dict(iterations=5, checkpoint_every=2, minibatches=minibatches)
    whole = make_loop(**settings)
    run_loop(whole, job_in(tmp_path / "whole"), tmp_path / "whole.csv", CHECKPOINT)

    child = os.fork()
    if child == 0:  # dies for good in the middle of the fourth iteration
        loop = make_loop(**settings)
        step = loop.optimizer.step

        def deadly(*arguments):
            if loop.state.iteration == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)

        loop.optimizer.step = deadly
        run_loop(loop, job_in(tmp_path / "killed"), tmp_path / "killed.csv", CHECKPOINT)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "killed.csv").exists()

    resumed = make_loop(**settings)
    run_loop(resumed, job_in(tmp_path / "killed"), tmp_path / "killed.csv", CHECKPOINT)
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert resumed.state.curriculum.state_dict() == whole.state.curriculum.state_dict()
    for (name, expected), (_, got) in zip(
        whole.state.model.state_dict().items(), resumed.state.model.state_dict().items(), strict=True
    ):
        assert torch.equal(expected, got), name
