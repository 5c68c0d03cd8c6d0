"""The RL loop: sample, reward, update, and carry on exactly where a kill left it (K2 §3.2; K1.5 §2.3).

Iteration i draws prompts from the curriculum, samples K responses to each from the current policy π_old, and takes
`passes` times `minibatches` optimiser steps on the squared objective plus a PTX loss. The optimiser starts afresh each
iteration because π_old, the reference, has changed. Every random choice of iteration i comes from (seed, i), so
weights and success rates are the whole state. An update that would be a spike is left out, as in pre-training: its loss
is the whole objective, its samples are the prompts. SIGTERM ends the training before the next iteration.

Losses are divided by 2τ, which makes the on-policy gradient exactly REINFORCE's and the PTX weight independent of τ.
In the first, on-policy step a group with equal rewards has exactly no gradient and is left out; later it is kept.
A prompt is computed once for all responses to it (`k2core.training.branches`).

With `pause_after`, long responses take several iterations (`k2core.inference.under_way`). A prompt is learnt from once
all responses to it have ended, and counts as one of the iteration's prompts until then. π_old of a token is the policy
that sampled it, at the temperature of then; so log π/π_old is not zero in the first step where policies have changed
within a response. Responses that are paused at the end of the training are dropped.

Logged: `reward/mean` and `passed` (prompts as drawn: the hardest come most often, so both may fall while the policy
improves), `curriculum/success` (running success rate, mean over the whole pool), `reward/zero_std` (share of groups
without signal), `truncated` (share over budget), `length` (sampled tokens per rollout), `turns` (responses per
rollout), `entropy` (nats per token: mean -log π of the sampled tokens), `critique/loss` (of the critic on verified
pairs), `critique/agreement` (of the critic with the verifiers, on held-out pairs), `critique/on` (whether its reward
counts), `critique/spread` (win rates' standard deviation), `paused` (responses that go on in the next iteration),
`stale` (share of the sampled tokens that are of earlier iterations' policies), `temperature`, `grad_norm` (before
clipping), `lr/muon` (the matrices' learning rate), what the optimiser reports, and, once there are any,
`spike/skipped` (updates left out).

Before the iteration's first step `log_ratio/first_max` (largest |log π_θ/π_old| of a response without stale tokens:
sampler and trainer agree if it is about 0); before its last step `loss/policy`, `loss/ptx`, `log_ratio/mean`,
`log_ratio/abs` (of log π_θ/π_old, and of its magnitude), `loss/pull` (the mean of (τ log π_θ/π_old)², part of
`loss/policy`) and `pull/share` (a response's gradient weighs r - r̄ - τ log π_θ/π_old; the last term's share of
it, by magnitude: 0 on-policy, 1 where the pull is all).

Shapes: B rows, T positions, N responses, M their tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module, ModuleDict

from k2core.data.rows.packing import pack_rows
from k2core.data.rows.trees import Tree
from k2core.inference.rollouts import Prompt, Rollout
from k2core.inference.under_way import Sample, begin, go_on, repeats, sample
from k2core.model.loss import token_losses
from k2core.rl.config import RLConfig
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.objective import advantages, sequence_log_probs, squared_loss
from k2core.rl.preferences import verified_pair
from k2core.rl.refinement import Refinement
from k2core.training.branches import grow, trees_to_batch
from k2core.training.dialogues import Dialogue
from k2core.training.history import Metrics
from k2core.training.learner import Learner
from k2core.training.loop import Training
from k2core.training.loss import batch_loss
from k2core.training.setting import Setting

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.training.trainer import BatchSource

TRACED = 10
"""Iterations, about, of which a rollout is shown in MLflow."""
Judge = Callable[[Sequence[int], Sequence[Sequence[Rollout]]], list[list[float]]]
"""Gives the rewards of each response, for groups of responses to open prompts (by number)."""


@dataclass(frozen=True)
class Signal:
    """A response with its prompt and its advantage, ready for the loss."""

    prompt: Prompt
    rollout: Rollout
    advantage: float


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
    ) -> None:
        super().__init__(learner, config, setting)
        self.config, self.seed, self.curriculum = config, seed, curriculum
        self.tokenizer, self.prompts, self.ptx = tokenizer, prompts, ptx
        self.requests, self.open_prompts, self.critic = requests, open_prompts, critic
        self.trusted: bool | None = None
        self.under_way: list[tuple[int, list[Sample]]] = []

    def state(self) -> dict[str, Any]:
        paused = [[number, [each.state() for each in group]] for number, group in self.under_way]
        return {"curriculum": self.curriculum.state_dict(), "under_way": paused}

    def restore(self, state: dict[str, Any]) -> None:
        self.curriculum.load_state_dict(state["curriculum"])
        self.under_way = [
            (number, [Sample.restored(self.prompts[number], each, self.tokenizer) for each in group])
            for number, group in state["under_way"]
        ]

    def weights(self) -> Module:
        return ModuleDict({"policy": self.model} | ({"critic": self.critic.refinement.model} if self.critic else {}))

    def log(self) -> str:
        skipped = self.spikes.before(self.step * self.config.updates)
        row = self.history.close(self.step, {"spike/skipped": float(skipped)} if skipped else {})
        self.job.log(row, self.step)
        return f"passed {row['passed']:.2f}" if "passed" in row else "no prompt's responses have all ended"

    def temperature(self, iteration: int) -> float:
        """Linear decay from exploration to exploitation (K2 §3.2.3)."""
        done = iteration / max(1, self.config.iterations - 1)
        return self.config.temperature_start + done * (self.config.temperature_end - self.config.temperature_start)

    def advance(self) -> Metrics:
        if self.job.stopping:
            self.stop()
        config, iteration = self.config, self.step
        random = Random(f"{self.seed}/rl/{iteration}")
        temperature = self.temperature(iteration)
        numbers, groups = self._roll_out(random, temperature)
        for number, group in zip(numbers, groups, strict=True):
            self.curriculum.update(number, fmean(rollout.passed for rollout in group))
        metrics = {"temperature": temperature, "curriculum/success": fmean(self.curriculum.success)}
        if config.pause_after:
            metrics["paused"] = float(sum(not each.ended for _, group in self.under_way for each in group))
        if not groups:
            return metrics
        prompts = [self.prompts[number] for number in numbers]
        rewards = [[rollout.reward for rollout in group] for group in groups]
        if iteration % max(1, config.iterations // TRACED) == 0:
            self._trace(numbers[0], prompts[0], groups[0][0])
        metrics |= _describe(groups, rewards)
        if config.pause_after:
            metrics["stale"] = _stale(groups, iteration)
        names = [f"prompt/{number}" for number in numbers]
        learnt = [self._group(*group) for group in zip(names, prompts, groups, rewards, strict=True)]
        if self.critic:
            metrics |= self._refine(self.critic.refinement, numbers, groups)
            if self.trusted and self.open_prompts and iteration % config.critique_every == 0:
                more, metrics["critique/spread"] = self._self_critique(self.critic.judge, random, temperature)
                learnt += more
                random.shuffle(learnt)
        self.optimizer.reset_state()
        size = -(-len(learnt) // config.minibatches)
        for step in range(config.updates):
            part = step % config.minibatches
            if step and part == 0:
                random.shuffle(learnt)
            chosen = learnt[part * size : (part + 1) * size]
            metrics |= self._learn(chosen, temperature, first=step == 0, number=iteration * config.updates + step)
        return metrics

    def _roll_out(self, random: Random, temperature: float) -> tuple[list[int], list[list[Rollout]]]:
        """The prompts, by number, to which all responses have ended, and these; the others are under way."""
        config, busy = self.config, {number for number, _ in self.under_way}
        drawn = self.curriculum.draw(config.prompts + len(busy), random)
        numbers = [number for number in drawn if number not in busy][: max(0, config.prompts - len(busy))]
        seed = random.getrandbits(31)
        fresh = begin([self.prompts[number] for number in numbers], config.samples, seed)
        going = [*self.under_way, *zip(numbers, fresh, strict=True)]
        samples = [each for _, group in going for each in group]
        go_on(
            self.model, self.tokenizer, samples, temperature=temperature, context=config.context, version=self.step,
            most=config.pause_after,
        )  # fmt: skip
        for each in samples:
            if not each.ended and config.loops and repeats(each.tokens, config.loops):
                each.cut()
        ended = [all(each.ended for each in group) for _, group in going]
        self.under_way = [one for one, whole in zip(going, ended, strict=True) if not whole]
        done = [one for one, whole in zip(going, ended, strict=True) if whole]
        results = [[each.result(self.tokenizer, config.overlong_reward) for each in group] for _, group in done]
        return [number for number, _ in done], results

    def _sample(self, prompts: Sequence[Prompt], random: Random, temperature: float) -> list[list[Rollout]]:
        return sample(
            self.model,
            self.tokenizer,
            prompts,
            samples=self.config.samples,
            temperature=temperature,
            seed=random.getrandbits(31),
            overlong_reward=self.config.overlong_reward,
            context=self.config.context,
        )

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
        scored = zip(responses, advantages(rewards, self.config.baseline, self.config.tau), strict=True)
        return Group(name, [Signal(prompt, response, advantage) for response, advantage in scored])

    def _learn(self, groups: Sequence[Group], temperature: float, *, first: bool, number: int) -> Metrics:
        """One optimiser step on the squared objective over `groups` and the PTX loss, unless it is a spike."""
        if self.was_left_out(number):
            return {}
        config, model = self.config, self.model
        total = sum(len(group.signals) for group in groups)
        informative = [
            group.signals for group in groups
            if not first or any(each.advantage or self._is_stale(each.rollout) for each in group.signals)
        ]  # fmt: skip
        signals, responses, trees = list[Signal](), dict[int, Dialogue](), list[Tree]()
        for group in informative:
            own = {len(signals) + i: Dialogue(s.rollout.tokens, s.rollout.mask) for i, s in enumerate(group)}
            trees += grow(group[0].prompt.tokens, own, config.context)
            signals, responses = signals + group, responses | own
        rows = pack_rows([len(tree) for tree in trees], config.context)
        policy_loss, ratios, gains, fresh = 0.0, list[float](), list[float](), list[float]()
        self.optimizer.zero_grad()
        for start in range(0, len(rows), config.microbatch_rows):
            chosen = rows[start : start + config.microbatch_rows]
            members = [number for row in chosen for index in row for number in trees[index].branches]
            batch, sequence_BT = trees_to_batch(trees, responses, chosen)
            batch, sequence_BT = batch.to(model.device), sequence_BT.to(model.device)
            chosen_BT = sequence_BT >= 0
            logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, chosen_BT).float()
            log_probs_M = -token_losses(logits_MV / temperature, batch.targets_BT[chosen_BT])
            log_probs_N = sequence_log_probs(log_probs_M, sequence_BT[chosen_BT], len(signals))[members]
            old_N = log_probs_N.new_tensor([sum(signals[index].rollout.log_probs) for index in members])
            advantages_N = log_probs_N.new_tensor([signals[index].advantage for index in members])
            loss = squared_loss(log_probs_N, old_N, advantages_N, config.tau) * len(members) / total
            (loss / (2 * config.tau)).backward()
            with torch.no_grad():
                policy_loss += float(loss.detach())
                ratios += (log_probs_N - old_N).tolist()
                gains += advantages_N.tolist()
                at = enumerate(members)
                fresh += [abs(ratios[i - len(members)]) for i, each in at if not self._is_stale(signals[each].rollout)]
        ptx_loss = batch_loss(model, self.ptx.batch(number).to(model.device))
        (config.ptx_weight * ptx_loss).backward()
        metrics = {"loss/policy": policy_loss, "loss/ptx": float(ptx_loss.detach())}
        if ratios:
            metrics |= _pull(ratios, gains, config.tau, total)
            metrics |= {"log_ratio/first_max": max(fresh)} if first and fresh else {}
        objective = policy_loss / (2 * config.tau) + config.ptx_weight * metrics["loss/ptx"]
        made = self.update(number, objective, lambda: [group.name for group in groups])
        if made is None:
            return {}
        return metrics | {"grad_norm": made.norm, "lr/muon": made.lr} | made.figures

    def _is_stale(self, rollout: Rollout) -> bool:
        """Whether an earlier iteration's policy sampled a part of it."""
        return bool(rollout.versions) and rollout.versions[0] < self.step


def _pull(ratios: Sequence[float], gains: Sequence[float], tau: float, count: int) -> Metrics:
    """How far the policy is from π_old, and what τ makes of it.

    Args:
        ratios: log π_θ/π_old of each response that has a gradient.
        gains: their r - r̄.
        count: all responses that the loss is a mean over.
    """
    pulls, drives = sum(tau * abs(ratio) for ratio in ratios), sum(map(abs, gains))
    return {
        "log_ratio/mean": fmean(ratios),
        "log_ratio/abs": fmean(map(abs, ratios)),
        "loss/pull": tau**2 * sum(ratio**2 for ratio in ratios) / count,
        "pull/share": pulls / (pulls + drives) if pulls else 0.0,
    }


def _stale(groups: Sequence[Sequence[Rollout]], iteration: int) -> float:
    """The share of the sampled tokens that are of earlier iterations."""
    rollouts = [rollout for group in groups for rollout in group]
    older = sum(
        sampled for each in rollouts for sampled, version in zip(each.mask, each.versions, strict=True)
        if version < iteration
    )  # fmt: skip
    return older / sum(sum(each.mask) for each in rollouts)


def _turns(mask: Sequence[int]) -> int:
    """How many runs of ones a mask has."""
    return sum(now > before for before, now in zip([0, *mask], mask, strict=False))


def _describe(groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[float]]) -> Metrics:
    rollouts = [rollout for group in groups for rollout in group]
    return {
        "reward/mean": fmean(reward for group in rewards for reward in group),
        "reward/zero_std": fmean(len(set(group)) == 1 for group in rewards),
        "passed": fmean(rollout.passed for rollout in rollouts),
        "truncated": fmean(rollout.truncated for rollout in rollouts),
        "length": fmean(sum(rollout.mask) for rollout in rollouts),
        "turns": fmean(_turns(rollout.mask) for rollout in rollouts),
        "entropy": -sum(sum(rollout.log_probs) for rollout in rollouts)
        / sum(sum(rollout.mask) for rollout in rollouts),
    }
