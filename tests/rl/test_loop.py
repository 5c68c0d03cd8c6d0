"""RL on a micro model: it learns, sampler and trainer agree; what kills, SIGTERM and spikes leave."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from micro import CHECKPOINT, SPIKES, VOCAB, CharTokenizer, job_in, micro_config, micro_model, micro_optimizer

from k2core.inference.rollouts import Prompt, sample
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.loop import PolicyTraining
from k2core.stage import StageError
from k2core.training.dialogues import Dialogue, DialogueSource
from k2core.training.learner import Learner
from k2core.training.setting import Setting
from k2core.training.spikes import SpikeConfig

STOP = CharTokenizer.im_end_id
# a response passes if it ends within its budget and its first letter has the parity of the prompt's
PROMPTS = [
    Prompt((3, 4, number + 2), 6, lambda text, number=number: float(ord(text[0]) % 2 == number % 2))
    for number in range(6)
]


def make_training(folder: Path, spikes: SpikeConfig = SPIKES, **changes) -> PolicyTraining:
    torch.manual_seed(0)
    model = micro_model()
    ptx = DialogueSource(
        [Dialogue([3, 4, n + 2, 6 + n % 2, STOP], [0, 0, 0, 1, 1]) for n in range(6)], context=32, batch_rows=1, seed=0
    )
    return PolicyTraining(
        Learner(model, micro_optimizer(model)), micro_config(**changes), Setting(job_in(folder), spikes, CHECKPOINT), 7,
        curriculum=PrioritizedSampler([0.5] * len(PROMPTS), momentum=0.5, floor=0.05), tokenizer=CharTokenizer(),
        prompts=PROMPTS, ptx=ptx,
    )  # fmt: skip


def iterate(training: PolicyTraining) -> dict[str, float]:
    metrics = training.advance()
    training.step += 1
    return metrics


def assert_equal(found: PolicyTraining, wanted: PolicyTraining) -> None:
    assert found.curriculum.state_dict() == wanted.curriculum.state_dict()
    for (name, expected), (_, got) in zip(
        wanted.model.state_dict().items(), found.model.state_dict().items(), strict=True
    ):
        assert torch.equal(expected, got), name


def test_sampler_and_trainer_agree_on_the_first_step(tmp_path):
    first = iterate(make_training(tmp_path, minibatches=2, temperature_start=0.7))
    assert first["log_ratio/first_max"] < 1e-4
    assert first["log_ratio/abs"] > 1e-4, "the second minibatch is off-policy"
    assert 0 < first["entropy"] <= torch.log(torch.tensor(float(VOCAB)))


class Watched:
    """A training's iteration, written down: what was sampled, and weights and gradients before each optimiser step."""

    def __init__(self, folder: Path, **changes) -> None:
        training = make_training(folder, ptx_weight=0.0, temperature_start=0.8, **changes)
        sample_, step = training._sample, training.optimizer.step
        self.prompts, self.groups, self.weights, self.gradients = [], [], [], []

        def sampled(prompts, random, temperature):
            self.prompts, self.groups = prompts, sample_(prompts, random, temperature)
            return self.groups

        def stepped(scale, norm):
            self.weights.append({name: tensor.clone() for name, tensor in training.model.state_dict().items()})
            self.gradients.append(gradients(training.model))
            return step(scale, norm)

        training._sample, training.optimizer.step = sampled, stepped
        self.metrics = iterate(training)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in model.named_parameters()
    }


def by_hand(watched: Watched, step: int, tau: float, baseline: str):
    """The model before step `step`, and log-ratio and r - r̄ of every response, each read by itself."""
    model, ratios, gains = micro_model(), [], []
    model.load_state_dict(watched.weights[step])
    for prompt, group in zip(watched.prompts, watched.groups, strict=True):
        rewards = torch.tensor([rollout.reward for rollout in group])
        middle = rewards.mean() if baseline == "mean" else tau * (rewards / tau).exp().mean().log()
        for rollout in group:
            tokens = torch.tensor([[*prompt.tokens, *rollout.tokens]])
            log_probs = (model(tokens)[0] / 0.8).log_softmax(-1)[len(prompt.tokens) - 1 : -1]
            chosen = log_probs.gather(1, tokens[0, len(prompt.tokens) :, None])
            ratios.append(chosen.sum() - sum(rollout.log_probs))
            gains.append(rollout.reward - middle)
    return model, torch.stack(ratios), torch.stack(gains)


@pytest.mark.parametrize("baseline", ["mean", "log_mean_exp"])
def test_steps_off_the_reference_have_loss_and_gradient_of_the_whole_objective(tmp_path, baseline):
    tau = 0.3
    watched = Watched(tmp_path, passes=3, tau=tau, baseline=baseline)
    for step in range(3):
        model, ratios, gains = by_hand(watched, step, tau, baseline)
        loss = (gains - tau * ratios).square().mean()
        (loss / (2 * tau)).backward()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(watched.gradients[step][name], gradient, atol=2e-5, rtol=1e-3, msg=name)
        assert (ratios.abs().max() > 0.05) == (step > 0), "only the first step is on-policy"
    found, ratios = watched.metrics, ratios.detach()
    assert found["loss/policy"] == pytest.approx(float(loss), rel=1e-4)
    assert found["log_ratio/mean"] == pytest.approx(float(ratios.mean()), abs=1e-4)
    assert found["log_ratio/abs"] == pytest.approx(float(ratios.abs().mean()), rel=1e-3)
    assert found["loss/pull"] == pytest.approx(float((tau * ratios).square().mean()), rel=1e-3)
    pull, drive = (tau * ratios).abs().sum(), gains.abs().sum()
    assert found["pull/share"] == pytest.approx(float(pull / (pull + drive)), rel=1e-3)


def test_grpos_steps_have_the_gradient_of_the_papers_loss(tmp_path):
    """Token by token, each response read by itself; the second step is off the reference."""
    watched = Watched(tmp_path, passes=2, objective="grpo")
    for step in range(2):
        model = micro_model()
        model.load_state_dict(watched.weights[step])
        loss, distance = torch.zeros(()), 0.0
        for prompt, group in zip(watched.prompts, watched.groups, strict=True):
            rewards = torch.tensor([rollout.reward for rollout in group])
            gains = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            for rollout, gain in zip(group, gains, strict=True):
                tokens = torch.tensor([[*prompt.tokens, *rollout.tokens]])
                log_probs = (model(tokens)[0] / 0.8).log_softmax(-1)[len(prompt.tokens) - 1 : -1]
                chosen = log_probs.gather(1, tokens[0, len(prompt.tokens) :, None])[:, 0]
                ratio = (chosen - torch.tensor(rollout.log_probs)).exp()
                loss = loss - torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
                distance = max(distance, float((ratio - 1).abs().max()))
        loss = loss / sum(map(len, watched.groups))
        loss.backward()
        assert (distance > 0.2) == (step > 0), "the second step has ratios to clip"
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(watched.gradients[step][name], gradient, atol=2e-5, rtol=1e-3, msg=name)
    assert watched.metrics["loss/policy"] == pytest.approx(float(loss.detach()), abs=1e-4)


def test_one_step_is_reinforce_with_a_mean_baseline_whatever_tau_is(tmp_path):
    """And the first of several steps is that step."""
    for tau in (0.1, 3.0):
        watched = Watched(tmp_path / str(tau), tau=tau)
        model, ratios, gains = by_hand(watched, 0, tau, "mean")
        (-(gains * ratios).mean()).backward()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(watched.gradients[0][name], gradient, atol=2e-5, rtol=1e-3, msg=name)
        assert watched.metrics["pull/share"] < 1e-3 and len(watched.gradients) == 1
        several = Watched(tmp_path / f"{tau}/several", tau=tau, passes=2)
        assert all(torch.equal(several.gradients[0][name], found) for name, found in watched.gradients[0].items())


def test_a_reference_as_far_as_tau_says(tmp_path):
    """The stronger the pull, the nearer the policy stays to the one that sampled."""
    far, near = (Watched(tmp_path / str(tau), passes=8, tau=tau).metrics["log_ratio/abs"] for tau in (0.01, 10.0))
    assert far > 1.5 * near > 0


def test_reward_rises(tmp_path):
    training = make_training(tmp_path, iterations=30, prompts=6, samples=16, ptx_weight=0.0)
    passed = [iterate(training)["passed"] for _ in range(30)]
    assert sum(passed[-5:]) > sum(passed[:5]) + 1.0, passed


def test_a_length_reward_shortens_what_is_right_from_its_iteration_on(tmp_path):
    """Any response that ends passes."""
    lengths, trainings = {}, {}
    for name, weight, since in (("off", 0.0, 0), ("later", 1.0, 8), ("on", 1.0, 0)):
        settings = dict(prompts=6, samples=16, ptx_weight=0.0, length_weight=weight, length_from=since)
        trainings[name] = make_training(tmp_path / name, iterations=8, **settings)
        trainings[name].prompts = [Prompt(prompt.tokens, 6, lambda text: 1.0) for prompt in PROMPTS]
        lengths[name] = [iterate(trainings[name])["length"] for _ in range(8)][-1]
    assert lengths["on"] < lengths["off"] - 0.3, lengths
    assert_equal(trainings["later"], trainings["off"])


def test_over_budget_is_truncated_and_penalised():
    settings = dict(samples=8, temperature=1.0, seed=0, overlong_reward=-0.5)
    groups = sample(micro_model(), CharTokenizer(), PROMPTS[:2], **settings)
    rollouts = [rollout for group in groups for rollout in group]
    cut = [rollout for rollout in rollouts if rollout.truncated]
    assert cut and all(len(r.tokens) == 6 and r.reward == -0.5 and not r.passed for r in cut)
    assert all(r.tokens[-1] == STOP for r in rollouts if not r.truncated)
    assert all(len(r.tokens) == len(r.log_probs) for r in rollouts)


def test_the_optimizer_starts_afresh_each_iteration(tmp_path):
    training, resets = make_training(tmp_path, minibatches=2), []
    reset = training.optimizer.reset_state
    training.optimizer.reset_state = lambda: (resets.append(training.step), reset())
    iterate(training)
    iterate(training)
    assert resets == [0, 1]


@pytest.fixture
def one_thread():
    """A forked process has one, and sums are those of as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(training: PolicyTraining, folder: Path) -> bytes:
    training.run(folder / "plot.csv")
    return (folder / "plot.csv").read_bytes()


@pytest.mark.parametrize(("minibatches", "passes"), [(1, 1), (2, 2)])
def test_a_killed_run_ends_bit_identically(tmp_path, minibatches, passes, one_thread):
    settings = dict(iterations=5, checkpoint_every=2, minibatches=minibatches, passes=passes)
    whole = make_training(tmp_path / "whole", **settings)
    rows = run(whole, tmp_path / "whole")

    child = os.fork()
    if child == 0:  # dies for good in the middle of the fourth iteration
        training = make_training(tmp_path / "killed", **settings)
        step = training.optimizer.step

        def deadly(*arguments):
            if training.step == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)

        training.optimizer.step = deadly
        run(training, tmp_path / "killed")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not (tmp_path / "killed" / "plot.csv").exists()

    resumed = make_training(tmp_path / "killed", **settings)
    assert run(resumed, tmp_path / "killed") == rows
    assert_equal(resumed, whole)


def after_samples(training: PolicyTraining, count: int, act: Callable[[], None]) -> None:
    """Have `act` done when `training` has sampled `count` times."""
    sample, calls = training._sample, []

    def counted(*arguments):
        groups = sample(*arguments)
        calls.append(1)
        if len(calls) == count:
            act()
        return groups

    training._sample = counted


@pytest.mark.parametrize("at", [1, 2, 3])
def test_sigterm_ends_it_at_a_checkpoint_and_loses_nothing(tmp_path, at, one_thread):
    """SIGTERM comes in the middle of an iteration, which is finished; none is made twice."""
    settings = dict(iterations=5, checkpoint_every=2, minibatches=2, passes=2, baseline="log_mean_exp")
    whole = make_training(tmp_path / "whole", **settings)
    rows = run(whole, tmp_path / "whole")

    stopped = make_training(tmp_path / "stopped", **settings)
    after_samples(stopped, at, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="143"):
        run(stopped, tmp_path / "stopped")
    assert stopped.step == at and not (tmp_path / "stopped" / "plot.csv").exists()

    resumed, made = make_training(tmp_path / "stopped", **settings), []
    advance = resumed.advance
    resumed.advance = lambda: (made.append(resumed.step), advance())[1]
    assert run(resumed, tmp_path / "stopped") == rows
    assert made == list(range(at, 5))
    assert_equal(resumed, whole)


def poisoned(training: PolicyTraining, *updates: int) -> PolicyTraining:
    """`training`, whose gradients are not finite at these updates."""
    norm, calls = training.optimizer.gradient_norm, []

    def measured():
        calls.append(1)
        return float("nan") if len(calls) - 1 in updates else norm()

    training.optimizer.gradient_norm = measured
    return training


def test_a_spike_is_left_out_recorded_and_stays_out(tmp_path, one_thread):
    settings = dict(iterations=4, minibatches=2)
    training = poisoned(make_training(tmp_path / "one", **settings), 3)
    run(training, tmp_path / "one")
    [record] = [json.loads(line) for line in training.left_out()["skipped.jsonl"].splitlines()]
    assert record["step"] == 3 and record["reason"] == "its gradient norm is nan"
    assert record["samples"] and all(name.startswith("prompt/") for name in record["samples"])
    assert [row.get("spike/skipped") for row in training.history.rows] == [None, 1, 1, 1]
    assert all(tensor.isfinite().all() for tensor in training.model.state_dict().values())

    # killed after it, before a checkpoint has it: on the way again the update would pass, and stays out
    killed = poisoned(make_training(tmp_path / "two", **settings), 3)
    after_samples(killed, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        run(killed, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "step-00000003")
    resumed = make_training(tmp_path / "two", **settings)
    run(resumed, tmp_path / "two")
    assert resumed.left_out() == training.left_out()
    assert_equal(resumed, training)


def test_spikes_in_a_row_stop_it(tmp_path):
    with pytest.raises(StageError, match="3 steps in a row were left out, the last is step 3: its gradient norm"):
        run(poisoned(make_training(tmp_path), 1, 2, 3), tmp_path)


class Echo:
    """An episode of `turns` responses: the environment repeats the first letter, and wants letters of one parity."""

    def __init__(self, turns: int = 2, said: int = 2) -> None:
        self.left, self.said, self.right = turns, said, True

    def advance(self, response: str) -> list[int] | None:
        self.left, letter = self.left - 1, STOP if response[0] == "<" else ord(response[0]) - 92
        self.right = self.right and letter % 2 == 1
        return [letter] * self.said if self.left else None

    def reward(self) -> float:
        return float(self.right)


EPISODES = [Prompt((3, 4, number + 2), 6, lambda text: 0.0, begin=Echo) for number in range(6)]


def test_an_episodes_tokens_are_as_they_were_sampled_and_what_was_said_is_masked():
    groups = sample(
        micro_model(), CharTokenizer(), EPISODES, samples=8, temperature=1.0, seed=0, overlong_reward=-0.5
    )  # fmt: skip
    whole = [rollout for group in groups for rollout in group if not rollout.truncated]
    assert whole
    for rollout in whole:
        ends = [at for at, token in enumerate(rollout.tokens) if token == STOP and rollout.mask[at]]
        assert len(ends) == 2 and ends[1] == len(rollout.tokens) - 1
        said = slice(ends[0] + 1, ends[0] + 3)
        assert rollout.mask[said] == [0, 0] and sum(rollout.mask) == len(rollout.tokens) - 2
        assert rollout.tokens[said] == [rollout.tokens[0]] * 2 and rollout.log_probs[said] == [0.0, 0.0]
        assert rollout.passed == (rollout.tokens[0] % 2 == rollout.tokens[said.stop] % 2 == 1)


def test_an_episode_without_room_for_another_response_is_cut():
    long = [Prompt((3, 4), 6, lambda text: 1.0, begin=lambda: Echo(said=20))]
    settings = dict(samples=16, temperature=1.0, seed=0, overlong_reward=-0.5)
    (tight,) = sample(micro_model(), CharTokenizer(), long, context=24, **settings)
    assert all(rollout.truncated and rollout.reward == -0.5 for rollout in tight)
    assert all(len(rollout.tokens) <= 24 - 2 and all(rollout.mask) for rollout in tight), "it fits into a training row"
    (roomy,) = sample(micro_model(), CharTokenizer(), long, **settings)
    assert not all(rollout.truncated for rollout in roomy)


def test_sampler_and_trainer_agree_on_episodes_and_they_are_learnt_from(tmp_path):
    training = make_training(tmp_path, iterations=30, prompts=6, samples=16, ptx_weight=0.0)
    training.prompts = EPISODES
    rows = [iterate(training) for _ in range(30)]
    assert rows[0]["log_ratio/first_max"] < 1e-4 and rows[0]["turns"] > 1
    passed = [row["passed"] for row in rows]
    assert sum(passed[-5:]) > sum(passed[:5]) + 1.0, passed
