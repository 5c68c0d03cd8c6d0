"""The RL loop: sample, reward, update, and carry on exactly where a kill left it (K2 §3.2; K1.5 §2.3).

Iteration i draws prompts from the curriculum, samples K responses to each from the current policy π_old, and takes
a few optimiser steps on the squared objective plus a PTX loss. The optimiser starts afresh each iteration because
π_old, the reference, has changed. Every random choice of iteration i comes from (seed, i), so weights and success
rates are the whole state.

Losses are divided by 2τ, which makes the on-policy gradient exactly REINFORCE's and the PTX weight independent of τ.
In the first, on-policy step a group with equal rewards has exactly no gradient and is left out; later it is kept.

Logged: `reward/mean` and `passed` (prompts as drawn: the hardest come most often, so both may fall while the policy
improves), `curriculum/success` (running success rate, mean over the whole pool), `reward/zero_std` (share of groups
without signal), `truncated` (share over budget), `length` (tokens a response), `entropy` (nats a token, estimated by
-log π of the sampled tokens), `log_ratio/first_max` (largest |log π_θ/π_old| of a response before the first step:
sampler and trainer agree if it is about 0), `log_ratio/last` (mean, last step), `loss/policy`, `loss/ptx`,
`critique/spread` (win rates' standard deviation), `temperature`, and what the optimiser reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

import torch

from k2core.data.rows.packing import pack_rows
from k2core.inference.rollouts import Prompt, Rollout, sample
from k2core.model.loss import token_losses
from k2core.rl.config import RLConfig
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.objective import advantages, sequence_log_probs, squared_loss
from k2core.stage import Job
from k2core.training.checkpoint import CheckpointConfig, Checkpoints
from k2core.training.dialogues import Dialogue, dialogues_to_batch
from k2core.training.history import History, Metrics
from k2core.training.loss import batch_loss


@dataclass(frozen=True)
class Signal:
    """A response with its prompt and its advantage, ready for the loss."""

    prompt: Prompt
    rollout: Rollout
    advantage: float


@dataclass
class State:
    """All that an iteration changes. The optimiser's state is none of it: it starts afresh each time."""

    model: Any
    curriculum: PrioritizedSampler
    history: History
    iteration: int = 0

    def save(self, checkpoints: Checkpoints, optimizer: Any) -> None:
        """Have a checkpoint written."""
        content = {"iteration": self.iteration, "history": self.history.state()}
        content["curriculum"] = self.curriculum.state_dict()
        checkpoints.save(self.iteration, self.model, optimizer, content)

    def restore(self, checkpoints: Checkpoints, optimizer: Any) -> None:
        """Continue from the newest sound checkpoint, if there is one."""
        content = checkpoints.restore(self.model, optimizer)
        if content:
            self.iteration = content["iteration"]
            self.history.restore(content["history"])
            self.curriculum.load_state_dict(content["curriculum"])


class Loop:
    """Runs iterations on a state.

    Args:
        tokenizer: of the model.
        optimizer: a `MuonClip` over `state.model`.
        prompts: the curriculum's items; `state.curriculum` numbers them.
        ptx: batches of supervised dialogues.
        critique: gives, for groups of responses to `open_prompts` (by number), the rewards of each response.
    """

    def __init__(
        self,
        config: RLConfig,
        seed: int,
        state: State,
        *,
        tokenizer: Any,
        optimizer: Any,
        prompts: Sequence[Prompt],
        ptx: Any,
        open_prompts: Sequence[Prompt] = (),
        critique: Callable[[Sequence[int], Sequence[Sequence[Rollout]]], list[list[float]]] | None = None,
    ) -> None:
        self.config, self.seed, self.state = config, seed, state
        self.tokenizer, self.optimizer, self.prompts, self.ptx = tokenizer, optimizer, prompts, ptx
        self.open_prompts, self.critique = open_prompts, critique

    def temperature(self, iteration: int) -> float:
        """Linear decay from exploration to exploitation (K2 §3.2.3)."""
        done = iteration / max(1, self.config.iterations - 1)
        return self.config.temperature_start + done * (self.config.temperature_end - self.config.temperature_start)

    def iterate(self) -> Metrics:
        """One iteration; advances the state and returns its metrics."""
        config, iteration = self.config, self.state.iteration
        random = Random(f"{self.seed}/rl/{iteration}")
        temperature = self.temperature(iteration)
        numbers = self.state.curriculum.draw(config.prompts, random)
        prompts = [self.prompts[number] for number in numbers]
        groups = self._sample(prompts, random, temperature)
        for number, group in zip(numbers, groups, strict=True):
            self.state.curriculum.update(number, fmean(rollout.passed for rollout in group))
        rewards = [[rollout.reward for rollout in group] for group in groups]
        success = fmean(self.state.curriculum.success)
        metrics = _describe(groups, rewards) | {"temperature": temperature, "curriculum/success": success}
        signals = [_signals(*group) for group in zip(prompts, groups, rewards, strict=True)]
        if self.critique and self.open_prompts and iteration % config.critique_every == 0:
            more, metrics["critique/spread"] = self._self_critique(random, temperature)
            signals += more
            random.shuffle(signals)
        self.optimizer.reset_state()
        size = -(-len(signals) // config.minibatches)
        for step in range(config.minibatches):
            chosen = signals[step * size : (step + 1) * size]
            metrics |= self._update(chosen, temperature, first=step == 0, step=iteration * config.minibatches + step)
        self.state.iteration += 1
        return metrics

    def _sample(self, prompts: Sequence[Prompt], random: Random, temperature: float) -> list[list[Rollout]]:
        return sample(
            self.state.model,
            self.tokenizer,
            prompts,
            samples=self.config.samples,
            temperature=temperature,
            seed=random.getrandbits(31),
            overlong_reward=self.config.overlong_reward,
        )

    def _self_critique(self, random: Random, temperature: float) -> tuple[list[list[Signal]], float]:
        """Responses to open prompts, rewarded with the critic's win rates."""
        count = min(self.config.critique_prompts, len(self.open_prompts))
        numbers = random.sample(range(len(self.open_prompts)), count)
        prompts = [self.open_prompts[number] for number in numbers]
        groups = self._sample(prompts, random, temperature)
        wins = self.critique(numbers, groups)
        rewards = [
            [
                self.config.critique_weight * (rollout.reward if rollout.truncated else win)
                for rollout, win in zip(group, won, strict=True)
            ]
            for group, won in zip(groups, wins, strict=True)
        ]
        signals = [_signals(*group) for group in zip(prompts, groups, rewards, strict=True)]
        return signals, fmean(pstdev(won) for won in wins)

    def _update(self, groups: Sequence[list[Signal]], temperature: float, *, first: bool, step: int) -> Metrics:
        """One optimiser step on the squared objective over `groups` and the PTX loss."""
        config, model = self.config, self.state.model
        total = sum(len(group) for group in groups)
        signals = [signal for group in groups for signal in group if not first or any(s.advantage for s in group)]
        dialogues = [
            Dialogue(
                [*signal.prompt.tokens, *signal.rollout.tokens],
                [0] * len(signal.prompt.tokens) + [1] * len(signal.rollout.tokens),
            )
            for signal in signals
        ]
        rows = pack_rows([len(dialogue.tokens) for dialogue in dialogues], config.context)
        policy_loss, ratios = 0.0, []
        self.optimizer.zero_grad()
        for start in range(0, len(rows), config.microbatch_rows):
            chosen = rows[start : start + config.microbatch_rows]
            members = [index for row in chosen for index in row]
            batch, sequence_BT = dialogues_to_batch(dialogues, chosen)
            batch, sequence_BT = batch.to(model.device), sequence_BT.to(model.device)
            chosen_BT = sequence_BT >= 0
            logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, chosen_BT).float()
            log_probs_M = -token_losses(logits_MV / temperature, batch.targets_BT[chosen_BT])
            log_probs_N = sequence_log_probs(log_probs_M, sequence_BT[chosen_BT], len(dialogues))[members]
            old_N = log_probs_N.new_tensor([sum(signals[index].rollout.log_probs) for index in members])
            advantages_N = log_probs_N.new_tensor([signals[index].advantage for index in members])
            loss = squared_loss(log_probs_N, old_N, advantages_N, config.tau) * len(members) / total
            (loss / (2 * config.tau)).backward()
            with torch.no_grad():
                policy_loss += float(loss.detach())
                ratios += (log_probs_N - old_N).abs().tolist()
        ptx_loss = batch_loss(model, self.ptx.batch(step).to(model.device))
        (config.ptx_weight * ptx_loss).backward()
        metrics = {"loss/policy": policy_loss, "loss/ptx": float(ptx_loss.detach())}
        if ratios:
            metrics["log_ratio/last"] = fmean(ratios)
            metrics |= {"log_ratio/first_max": max(ratios)} if first else {}
        return metrics | self.optimizer.step(1.0)


def run_loop(loop: Loop, job: Job, plot: Path, checkpoint: CheckpointConfig) -> list[Metrics]:
    """All iterations, from the newest checkpoint in `job.scratch` on; writes `plot` and returns its rows."""
    config, state, optimizer = loop.config, loop.state, loop.optimizer
    with Checkpoints(job.scratch, checkpoint, job.fingerprint, job.say, job.name) as checkpoints:
        state.restore(checkpoints, optimizer)
        if state.iteration:
            job.say(f"resuming after iteration {state.iteration}")
        with job.progress(config.iterations, "iteration", done=state.iteration) as bar:
            while state.iteration < config.iterations:
                state.history.add(loop.iterate())
                if state.iteration % config.log_every == 0 or state.iteration == config.iterations:
                    row = state.history.close(state.iteration, {})
                    job.log(row, state.iteration)
                    bar.set_postfix_str(f"passed {row['passed']:.2f}", refresh=False)
                if state.iteration % config.checkpoint_every == 0 or state.iteration == config.iterations:
                    state.save(checkpoints, optimizer)
                bar.update()
        checkpoints.finish()
    state.history.write(plot)
    return state.history.rows


def _signals(prompt: Prompt, group: Sequence[Rollout], rewards: Sequence[float]) -> list[Signal]:
    return [Signal(*triple) for triple in zip([prompt] * len(group), group, advantages(rewards), strict=True)]


def _describe(groups: Sequence[Sequence[Rollout]], rewards: Sequence[Sequence[float]]) -> Metrics:
    rollouts = [rollout for group in groups for rollout in group]
    return {
        "reward/mean": fmean(reward for group in rewards for reward in group),
        "reward/zero_std": fmean(len(set(group)) == 1 for group in rewards),
        "passed": fmean(rollout.passed for rollout in rollouts),
        "truncated": fmean(rollout.truncated for rollout in rollouts),
        "length": fmean(len(rollout.tokens) for rollout in rollouts),
        "entropy": -fmean(value for rollout in rollouts for value in rollout.log_probs),
    }
