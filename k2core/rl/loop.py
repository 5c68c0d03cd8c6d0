"""The RL loop: sample, reward, update, and carry on exactly where a kill left it (K2 §3.2; K1.5 §2.3).

Iteration i draws prompts from the curriculum, samples K responses to each from the current policy π_old, and takes
`passes` times `minibatches` optimiser steps on the squared objective plus a PTX loss. The optimiser starts afresh each
iteration because π_old, the reference, has changed. Every random choice of iteration i comes from (seed, i), so
weights, success rates and paused trajectories are the whole state. An update that would be a spike is left out, as in
pre-training: its loss is the whole objective, its samples are the prompts. SIGTERM ends the training before the next
iteration.

With `token_budget` a trajectory that needs more tokens waits for the next iteration (`k2core.rl.partial`). Its tokens
then come from several policies, and log π_old of a response is the sum over its tokens of the log-probability under
the policy that sampled the token. The objective holds for responses of any origin (K1.5 §2.3.2): they are what the
reward was given to, and log π_θ/π_old, from the first step on not 0, pulls towards the policies that gave them.

K2's losses are divided by 2τ, which makes the on-policy gradient exactly REINFORCE's and the PTX weight independent of
τ. In the first step a group with equal rewards, all sampled by π_old, has exactly no gradient and is left out; later it
is kept.
A prompt is computed once for all responses to it (`k2core.training.branches`).

Several processes divide the prompts when they sample, each from a whole copy of the weights, and the rows when they
learn (`k2core.rl.policy_loss`). All processes draw the same prompts and know all rewards.

What is logged: `k2core.rl.figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from torch.nn import Module, ModuleDict

from k2core.inference.responder import Embedded, Responder
from k2core.inference.rollouts import Prompt, Rollout, Trajectory, begin, go_on, settled
from k2core.machine.processes import divided, gathered
from k2core.rl.config import RLConfig
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.figures import describe, pull
from k2core.rl.objective import advantages, length_rewards, standardised
from k2core.rl.partial import PartialRollouts, Waiting, stale_share
from k2core.rl.policy_loss import PolicyLoss, Signal
from k2core.rl.preferences import verified_pair
from k2core.rl.refinement import Refinement
from k2core.rl.routes import disagreement
from k2core.rl.server import Server
from k2core.training.history import Metrics
from k2core.training.learner import Learner
from k2core.training.loop import Training
from k2core.training.setting import Setting
from k2core.training.throughput import Clock

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.model.transformer import Transformer
    from k2core.training.trainer import BatchSource

TRACED = 10
"""Iterations, about, of which a rollout is shown in MLflow."""
Judge = Callable[[Sequence[int], Sequence[Sequence[Rollout]]], list[list[float]]]
"""Gives the rewards of each response, for groups of responses to open prompts (by number)."""


@dataclass(frozen=True)
class Critic:
    """The critic: how it learns, and how it rewards responses to open prompts."""

    refinement: Refinement
    judge: Judge


@dataclass(frozen=True)
class Group:
    """The responses to one prompt; `name` says which it is, for the record of an update that is left out."""

    name: str
    signals: list[Signal]


class PolicyTraining(Training):
    """Iterations of sampling and updating.

    Args:
        learner: the policy.
        curriculum: draws the prompts, by number.
        tokenizer: of the model.
        prompts: the curriculum's items.
        ptx: batches of supervised dialogues.
        requests: what the user wants in each prompt, for the critic; None: the critic does not learn from it.
        respond: what samples the responses; None: the sampler in this process.
        sampler: what that samples from, if `learner`'s model is spread over processes (`Ranks.whole`).
        critic: learns from verified responses, and rewards those to `open_prompts` while it can be trusted.
    """

    unit = "iteration"

    def __init__(
        self,
        learner: Learner,
        config: RLConfig,
        setting: Setting,
        seed: int,
        *,
        curriculum: PrioritizedSampler,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        ptx: BatchSource,
        requests: Sequence[str | None] = (),
        open_prompts: Sequence[Prompt] = (),
        critic: Critic | None = None,
        respond: Responder | None = None,
        sampler: Transformer | None = None,
    ) -> None:
        super().__init__(learner, config, setting)
        self.config, self.seed, self.curriculum = config, seed, curriculum
        self.tokenizer, self.prompts, self.ptx = tokenizer, prompts, ptx
        self.requests, self.open_prompts, self.critic = requests, open_prompts, critic
        self.trusted: bool | None = None
        self.ranks, self.sampler = setting.ranks, sampler or learner.model
        self.respond = respond or Embedded(self.sampler, config.replay_routes)
        self.ptx_rows = self.ranks.rows(ptx.batch_rows)
        self.partial, self.clock = PartialRollouts(), Clock()

    def state(self) -> dict[str, Any]:
        state = {"curriculum": self.curriculum.state_dict(), "partial": self.partial.state()}
        return state | ({"critic": self.critic.refinement.state()} if self.critic else {})

    def restore(self, state: dict[str, Any]) -> None:
        self.curriculum.load_state_dict(state["curriculum"])
        self.partial.restore(state["partial"], self.prompts, self.tokenizer)
        if self.critic:
            self.critic.refinement.restore(state["critic"])

    def weights(self) -> Module:
        return ModuleDict({"policy": self.model} | ({"critic": self.critic.refinement.model} if self.critic else {}))

    def log(self) -> str:
        skipped = self.spikes.before(self.step * self.config.updates)
        row = self.history.close(self.step, {"spike/skipped": float(skipped)} if skipped else {})
        self.job.log(row | self._times(), self.step)
        return f"passed {row['passed']:.2f}" if "passed" in row else "no group is complete"

    def temperature(self, iteration: int) -> float:
        """Linear decay from exploration to exploitation (K2 §3.2.3)."""
        done = iteration / max(1, self.config.iterations - 1)
        return self.config.temperature_start + done * (self.config.temperature_end - self.config.temperature_start)

    def advance(self) -> Metrics:
        if any(self.ranks.sum(self.job.stopping)):
            self.stop()
        self.ranks.refresh(self.sampler, self.model)
        config, iteration = self.config, self.step
        random = Random(f"{self.seed}/rl/{iteration}")
        temperature = self.temperature(iteration)
        numbers, groups, metrics = self._rollouts(self.curriculum.draw(config.prompts, random), random, temperature)
        prompts = [self.prompts[number] for number in numbers]
        for number, group in zip(numbers, groups, strict=True):
            self.curriculum.update(number, fmean(rollout.passed for rollout in group))
        rewards = [[rollout.reward for rollout in group] for group in groups]
        if config.length_weight and iteration >= config.length_from:
            rewards = [
                [reward + config.length_weight * more for reward, more in zip(own, length_rewards(group), strict=True)]
                for own, group in zip(rewards, groups, strict=True)
            ]
        if groups and iteration % max(1, config.iterations // TRACED) == 0:
            self._trace(numbers[0], prompts[0], groups[0][0])
        success = fmean(self.curriculum.success)
        if isinstance(self.respond, Server):
            metrics["rollouts/disagreement"] = self.respond.disagreement
        metrics |= describe(groups, rewards) | {"temperature": temperature, "curriculum/success": success}
        names = [f"prompt/{number}" for number in numbers]
        learnt = [self._group(*group) for group in zip(names, prompts, groups, rewards, strict=True)]
        if self.critic:
            metrics |= self._refine(self.critic.refinement, numbers, groups)
            if self.trusted and self.open_prompts and iteration % config.critique_every == 0:
                more, metrics["critique/spread"] = self._self_critique(self.critic.judge, random, temperature)
                learnt += more
                random.shuffle(learnt)
        if not learnt:
            return metrics
        self.optimizer.reset_state()
        size = -(-len(learnt) // config.minibatches)
        for step in range(config.updates):
            part = step % config.minibatches
            if step and part == 0:
                random.shuffle(learnt)
            chosen = learnt[part * size : (part + 1) * size]
            with self.clock.on("training"):
                metrics |= self._learn(chosen, temperature, first=step == 0, number=iteration * config.updates + step)
        return metrics

    def _rollouts(
        self, drawn: list[int], random: Random, temperature: float
    ) -> tuple[list[int], list[list[Rollout]], Metrics]:
        """Whole groups of responses with their prompts' numbers: to those drawn now, or to those that are ready."""
        prompts = [self.prompts[number] for number in drawn]
        if not self.config.token_budget:
            return drawn, self._sample(prompts, random, temperature), {}
        begun = begin(prompts, self.config.samples, random.getrandbits(31))
        fresh = [Waiting(*group) for group in zip(drawn, begun, strict=True)]
        done, metrics = self.partial.collect(
            fresh, lambda trajectories: self._go_on(trajectories, temperature, self.config.token_budget)
        )
        groups = [self._ended(group.trajectories) for group in done]
        metrics["partial/stale"] = stale_share(groups, self.step)
        return [group.number for group in done], groups, metrics

    def _sample(self, prompts: Sequence[Prompt], random: Random, temperature: float) -> list[list[Rollout]]:
        def sampled(groups: Sequence[list[Trajectory]]) -> list[list[Rollout]]:
            self._go_on([trajectory for group in groups for trajectory in group], temperature)
            return [self._ended(group) for group in groups]

        return divided(begin(prompts, self.config.samples, random.getrandbits(31)), sampled)

    def _go_on(self, trajectories: Sequence[Trajectory], temperature: float, token_budget: int | None = None) -> None:
        with self.clock.on("rollout"):
            go_on(
                self.respond, self.tokenizer, trajectories, temperature=temperature, context=self.config.context,
                repetition=self.config.repetition, token_budget=token_budget, version=self.step,
            )  # fmt: skip

    def _ended(self, trajectories: Sequence[Trajectory]) -> list[Rollout]:
        with self.clock.on("reward"):
            made = settled(trajectories, self.tokenizer, self.config.overlong_reward)
        for rollout in made:
            if rollout.fault:
                self.job.say(f"iteration {self.step}: a reward is 0, for its environment failed: {rollout.fault}")
        return made

    def _times(self) -> Metrics:
        """Where the seconds since the last row went; for MLflow alone, since rows do not depend on the machine."""
        times = self.clock.seconds()
        if isinstance(self.respond, Server):
            times |= self.respond.take_times()
        return times

    def _trace(self, number: int, prompt: Prompt, rollout: Rollout) -> None:
        """Show the iteration's first rollout in MLflow."""
        messages = [
            {"role": "user", "content": self.tokenizer.decode(prompt.tokens)},
            {"role": "assistant", "content": rollout.text},
        ]
        about = {"iteration": self.step, "prompt": number, "reward": rollout.reward, "passed": rollout.passed,
                 "truncated": rollout.truncated}  # fmt: skip
        self.job.trace("rollout in training", messages, about)

    def _refine(self, refinement: Refinement, numbers: Sequence[int], groups: Sequence[Sequence[Rollout]]) -> Metrics:
        """Let the critic learn from the iteration's verified responses, and see whether it can be trusted."""
        asked = [(self.requests[number], group) for number, group in zip(numbers, groups, strict=True)]
        pairs = [verified_pair(request, group, "rollout") for request, group in asked if request is not None]
        figures = refinement.learn([pair for pair in pairs if pair], Random(f"{self.seed}/critic/{self.step}"))
        agreement, least = refinement.agreement(), self.config.critique_least
        if self.trusted != (agreement >= least):
            self.trusted = agreement >= least
            self.job.say(
                f"iteration {self.step}: the critic agrees with the verifiers on {agreement:.0%} of "
                f"{len(refinement.heldout)} held-out pairs, rl.critique_least is {least:.0%}: its reward is "
                f"{'on' if self.trusted else 'off'}"
            )
        return figures | {"critique/agreement": agreement, "critique/on": float(self.trusted)}

    def _self_critique(self, critique: Judge, random: Random, temperature: float) -> tuple[list[Group], float]:
        """Responses to open prompts, rewarded with the critic's win rates."""
        count = min(self.config.critique_prompts, len(self.open_prompts))
        numbers = random.sample(range(len(self.open_prompts)), count)
        prompts = [self.open_prompts[number] for number in numbers]
        groups = self._sample(prompts, random, temperature)
        wins = critique(numbers, groups)
        rewards = [
            [
                self.config.critique_weight * (rollout.reward if rollout.truncated else win)
                for rollout, win in zip(group, won, strict=True)
            ]
            for group, won in zip(groups, wins, strict=True)
        ]
        names = [f"open/{number}" for number in numbers]
        learnt = [self._group(*group) for group in zip(names, prompts, groups, rewards, strict=True)]
        return learnt, fmean(pstdev(won) for won in wins)

    def _group(self, name: str, prompt: Prompt, responses: Sequence[Rollout], rewards: Sequence[float]) -> Group:
        config = self.config
        gains = advantages(rewards, config.baseline, config.tau) if config.objective == "k2" else standardised(rewards)
        scored = zip(responses, gains, strict=True)
        return Group(name, [Signal(prompt, response, advantage) for response, advantage in scored])

    def _learn(self, groups: Sequence[Group], temperature: float, *, first: bool, number: int) -> Metrics:
        """One optimiser step on the objective over `groups` and the PTX loss, unless it is a spike."""
        if self.was_left_out(number):
            return {}
        config, model = self.config, self.model
        total = sum(len(group.signals) for group in groups)
        informative = [
            group.signals
            for group in groups
            if not first or any(s.advantage or s.rollout.stale(self.step) for s in group.signals)
        ]
        objective = PolicyLoss(
            config, self.ranks, informative, total=total, temperature=temperature, version=self.step
        )  # fmt: skip
        self.optimizer.zero_grad()
        passed = objective.backward(model)
        each = 1 if self.ranks.pipeline > 1 else len(self.ptx_rows)
        starts = range(self.ptx_rows.start, self.ptx_rows.stop, each)
        batches = [self.ranks.part(self.ptx.batch(number, range(start, start + each))) for start in starts]
        [targets] = self.ranks.sum(self.ranks.targets(batches))
        nats = self.ranks.backward(model, batches, targets, config.ptx_weight)
        policy_loss, all_nats = self.ranks.sum(passed.loss, nats)
        ratios, gains, own_ratios = (
            [value for part in found for value in part]
            for found in zip(*gathered((passed.ratios, passed.gains, passed.own_ratios)), strict=True)
        )
        metrics = {"loss/policy": policy_loss, "loss/ptx": all_nats / targets}
        if ratios:
            metrics |= pull(ratios, gains, objective.tau, total)
            metrics |= {"log_ratio/first_max": max(map(abs, own_ratios))} if first and own_ratios else {}
        if config.replay_routes and (differing := disagreement(model, self.ranks.sum)) is not None and first:
            metrics["routes/disagreement"] = differing
        loss = policy_loss / objective.scale + config.ptx_weight * metrics["loss/ptx"]
        made = self.update(number, loss, lambda: [group.name for group in groups])
        if made is None:
            return {}
        return metrics | {"grad_norm": made.norm, "lr/muon": made.lr} | made.figures
