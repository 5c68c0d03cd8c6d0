"""Reinforcement learning with K1.5/K2's squared objective on the verifiable gym (K2 §3.2).

Tool tasks, first replies and whole dialogues, and small reasoning tasks are verified by programs; open prompts, the
last replies of accepted dialogues, are rewarded by the critic's pairwise comparisons. The critic learns from verified
replies in every iteration, and its reward counts only while it agrees with the verifiers on held-out ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.gym.settings import GymConfig
from k2core.machine import Compute
from k2core.optim.optimizer import OptimizerConfig
from k2core.rl.config import RLConfig
from k2core.sandbox.config import SandboxConfig
from k2core.stage import Job, Metrics, StageError, main
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.spikes import SpikeConfig

if TYPE_CHECKING:
    from k2core.evals.environments import Attempt

SECTION = "rl"
ROLLOUTS, READ = "rollouts.jsonl", 4
"""In the model's folder, for a person to read: held-out prompts, so many of each environment, with all responses."""


class Params(RLConfig):
    """The loop's settings, the PTX mixture, and how much is measured."""

    ptx_demonstrations: dict[str, int] = Field(description="gym items with correct answers in the PTX mixture")
    ptx_text: dict[str, float] = Field(description="share of the PTX mixture's targets that is text, by domain")
    trajectories: int = Field(ge=1, description="most accepted dialogues in the PTX mixture and as open prompts")
    json_share: float = Field(ge=0, le=1, description="share of PTX dialogues that declare their tools in JSON")
    heldout_items: int = Field(ge=1, description="held-out items per environment, measured before and after")
    heldout_samples: int = Field(ge=1, description="responses to each of them, at temperature 1")


def run(
    params: Params,
    gym: GymConfig,
    optimizer: OptimizerConfig,
    compute: Compute,
    parallel: ParallelConfig,
    spikes: SpikeConfig,
    checkpoint: CheckpointConfig,
    sandbox: SandboxConfig,
    init: Path,
    critic: Path,
    tokenizer: Path,
    tasks: Path,
    programs: Path,
    trajectories: Path,
    tokens: Path,
    out: Path,
    plot: Path,
    job: Job,
) -> Metrics:
    """Improve `init` on verified and critiqued prompts; report training reward and held-out pass rates."""
    compute.apply()
    parallel = parallel.of(SECTION)
    sandbox.apply()
    from random import Random
    from statistics import fmean

    from k2core.chat.tokenizer import Tokenizer
    from k2core.data.rows.shards import TokenShards
    from k2core.evals.environments import attempt, pass_rate
    from k2core.gym.base import Episodic
    from k2core.gym.demonstrations import encode_gym, encode_trajectories, read_trajectories, some, split_trajectories
    from k2core.gym.judging import Models
    from k2core.gym.registry import select
    from k2core.gym.tool_call import all_environments
    from k2core.gym.tool_dialogue import with_dialogues
    from k2core.model.files import save_model
    from k2core.rl.critique import Critique, open_requests
    from k2core.rl.loop import Critic, PolicyTraining
    from k2core.rl.pool import build_pool
    from k2core.rl.preferences import request_of, verified_pair
    from k2core.rl.refinement import Refinement
    from k2core.rl.server import Server
    from k2core.storage import write_lines, write_text
    from k2core.training.dialogues import DialogueSource, text_dialogues
    from k2core.training.learner import Learner
    from k2core.training.ranks import joined
    from k2core.training.setting import Setting

    params.check(parallel)
    tok, seed = Tokenizer.load(tokenizer), compute.seed
    environments = with_dialogues(all_environments(tasks, programs, gym, Models(gym.llm, compute, job.answers)))
    accepted = split_trajectories(read_trajectories(trajectories / "accepted.jsonl"), "train")
    accepted = some(accepted, params.trajectories, seed)

    tried: dict[str, dict[str, list[Attempt]]] = {}

    def heldout(when: str) -> Metrics:
        attempts = tried[when] = attempt(
            sampler,
            tok,
            environments,
            items=params.heldout_items,
            samples=params.heldout_samples,
            temperature=1.0,
            seed=seed,
        )
        rates = {name: pass_rate(responses) for name, responses in attempts.items()}
        return {f"heldout/{name}_{when}": rate for name, rate in rates.items()} | {
            f"heldout/pass_rate_{when}": fmean(rates.values())
        }

    with joined(parallel) as ranks:
        model = ranks.load(init, parallel)
        sampler = ranks.whole(model)
        figures = heldout("before")
        pool = build_pool(
            sampler,
            tok,
            environments,
            select(environments, params.pool, "rl.pool"),
            params,
            seed=seed,
            scratch=job.scratch,
        )
        if len(pool.prompts) < params.prompts:
            raise StageError(
                f"{len(pool.prompts)} items in the pool, {params.prompts} prompts per iteration: raise rl.pool"
            )
        counts = select(environments, params.ptx_demonstrations, "rl.ptx_demonstrations")
        dialogues = encode_gym(tok, environments, counts, "train", seed)
        dialogues += encode_trajectories(tok, accepted, seed=seed, json_share=params.json_share)
        fitting = [dialogue for dialogue in dialogues if len(dialogue.tokens) <= params.context]
        targets = sum(sum(dialogue.mask) for dialogue in fitting)
        text = text_dialogues(TokenShards(tokens), params.ptx_text, targets=targets, context=params.context, seed=seed)
        ptx = DialogueSource(
            fitting + text,
            context=params.context,
            batch_rows=params.ptx_rows,
            seed=seed,
            shared=parallel.context,
        )
        requests = open_requests(tok, accepted, params.context) if params.critique_prompts else []
        refined = None
        if requests:
            judge = ranks.load(critic, parallel)
            pairs = [
                verified_pair(request_of(each.item.messages), each.rollouts, f"heldout/{name}")
                for name, attempts in tried["before"].items() if not isinstance(environments[name], Episodic)
                for each in attempts
            ]  # fmt: skip
            known = [pair for pair in pairs if pair]
            Random(f"{seed}/critic").shuffle(known)
            refinement = Refinement(
                Learner(judge, optimizer.with_rates(params.muon_lr, params.adamw_lr).build(judge)), tok,
                known, asked=params.critique_heldout, pairs=params.critique_pairs, context=params.context, ranks=ranks,
            )  # fmt: skip
            refined = Critic(refinement, Critique(refinement.read, tok, requests, params.context))
        job.say(
            f"{params.iterations} iterations of {params.prompts} prompts × {params.samples} samples; "
            f"{len(pool.prompts)} items in the pool after {pool.dropped} too easy or too hard were left out, "
            f"{len(requests)} open prompts"
        )
        training = PolicyTraining(
            Learner(model, optimizer.with_rates(params.muon_lr, params.adamw_lr).build(model)),
            params,
            Setting(job, spikes, checkpoint, ranks),
            seed,
            curriculum=pool.curriculum,
            tokenizer=tok,
            prompts=pool.prompts,
            ptx=ptx,
            requests=pool.requests,
            open_prompts=[request.prompt for request in requests],
            critic=refined,
            sampler=sampler,
            respond=None if params.rollouts.engine == "embedded" else Server(params.rollouts, model, tok.im_end_id),
        )
        training.run(plot)
        rows = training.history.rows
        save_model(model, out)
        ranks.refresh(sampler, model)
        for name, content in training.left_out().items():
            write_text(out / name, content)
        tenth = max(1, len(rows) // 10)
        figures |= heldout("after")
    write_lines(out / ROLLOUTS, _to_read(tried["before"], tried["after"]))
    columns = {"reward": "reward/mean", "success": "curriculum/success", "entropy": "entropy", "truncated": "truncated"}
    columns |= {"agreement": "critique/agreement"} if requests else {}
    for when, part in (("first", rows[:tenth]), ("last", rows[-tenth:])):
        for name, column in columns.items():
            figures[f"train/{name}_{when}"] = fmean(row[column] for row in part if column in row)
    return figures | {
        "train/zero_std_share": fmean(row["reward/zero_std"] for row in rows if "reward/zero_std" in row),
        "log_ratio/first_step_max": max(row.get("log_ratio/first_max", 0.0) for row in rows),
        "pool/items": float(len(pool.prompts)),
        "pool/dropped": float(pool.dropped),
    }


def _to_read(before: dict[str, list[Attempt]], after: dict[str, list[Attempt]]) -> list[dict[str, Any]]:
    """The first prompts of each environment, each with the responses to it before and after."""
    return [
        {"environment": name, "prompt": first.item.messages[-1]["content"]}
        | {when: [{"text": rollout.text, "reward": rollout.reward} for rollout in of.rollouts]
           for when, of in (("before", first), ("after", last))}
        for name, tried in before.items()
        for first, last in zip(tried[:READ], after[name][:READ], strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    main(run, SECTION)
