"""Preference data from judged trajectories, and the critic that starts from the SFT model (K2 §3.2.2).

The critic learns to say which of two replies is better: correct gym answers against corrupted ones, accepted
trajectories against rejected ones of the same task and against themselves with a call changed. Every pair is shown
in both orders. Thin: one rubric is trained (correctness). The stage `rl` goes on training a copy of it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pydantic import Field

from k2core.gym.settings import GymConfig
from k2core.machine import Compute
from k2core.optim.optimizer import OptimizerConfig
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import Split, write_lines
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.fine_tuning import FineTuning, fine_tune
from k2core.training.spikes import SpikeConfig

SECTION = "critic"
VERDICTS = "verdicts.jsonl"
"""In the model's folder, for a person to read: the held-out pairs and the chance that the better reply wins."""


class Params(FineTuning):
    """How many pairs, for how long and how fast."""

    gym_pairs: dict[str, int] = Field(description="pairs of correct and corrupted answers, by environment")
    trajectory_pairs: int = Field(ge=0, description="most accepted trajectories that give pairs")
    heldout_items: int = Field(ge=1, description="held-out items per environment, and trajectories, for the accuracy")


def run(
    params: Params,
    gym: GymConfig,
    optimizer: OptimizerConfig,
    compute: Compute,
    parallel: ParallelConfig,
    spikes: SpikeConfig,
    checkpoint: CheckpointConfig,
    init: Path,
    tokenizer: Path,
    trajectories: Path,
    out: Path,
    plot: Path,
    job: Job,
) -> Metrics:
    """Train the critic and report its accuracy on held-out pairs before and after."""
    compute.apply()
    parallel = parallel.of(SECTION)
    from k2core.chat.template import encode_dialogue
    from k2core.chat.tokenizer import Tokenizer
    from k2core.gym.demonstrations import read_trajectories, some, split_trajectories
    from k2core.gym.judging import Models
    from k2core.gym.registry import select, text_environments
    from k2core.model.files import save_model
    from k2core.rl.critic import chances, pairwise_accuracy, verdict
    from k2core.rl.preferences import Pair, gym_pairs, trajectory_pairs
    from k2core.training.dialogues import Dialogue, DialogueSource
    from k2core.training.ranks import joined
    from k2core.training.setting import Setting

    tok, seed = Tokenizer.load(tokenizer), compute.seed
    environments = text_environments(gym, Models(gym.llm, compute, job.answers))
    accepted = read_trajectories(trajectories / "accepted.jsonl")
    rejected = read_trajectories(trajectories / "rejected.jsonl")
    counts = select(environments, params.gym_pairs, "critic.gym_pairs")

    def pairs(split: Split, counts: dict[str, int], limit: int) -> list[Pair]:
        chosen = some(split_trajectories(accepted, split), limit, seed)
        return gym_pairs(environments, counts, split, seed) + trajectory_pairs(chosen, rejected, seed)

    trained = pairs("train", counts, params.trajectory_pairs)
    heldout = pairs("heldout", dict.fromkeys(counts, params.heldout_items), params.heldout_items)
    dialogues = [
        Dialogue(*encode_dialogue(tok, verdict(pair.comparison(first), first)))
        for pair in trained
        for first in (True, False)
    ]
    fitting = [dialogue for dialogue in dialogues if len(dialogue.tokens) <= params.context]
    if not fitting or not heldout:
        raise StageError(f"{trajectories}: no preference pairs; raise critic.gym_pairs or make more trajectories")
    source = DialogueSource(
        fitting, context=params.context, batch_rows=params.batch_rows, seed=seed, shared=parallel.context
    )
    job.say(
        f"{len(trained)} pairs in both orders ({len(dialogues) - len(fitting)} too long), {len(source)} rows; "
        f"{len(heldout)} held-out pairs"
    )

    def accuracy(when: str, found: list[float]) -> Metrics:
        return {f"accuracy/{name}_{when}": value for name, value in pairwise_accuracy(heldout, found).items()}

    with joined(parallel) as ranks:
        model = ranks.load(init, parallel)
        whole = ranks.whole_rows(model)
        figures = accuracy("before", chances(whole, tok, heldout, params.context))
        setting = Setting(job, spikes, checkpoint, ranks, parallel.at_once)
        result = fine_tune(model, source, params, optimizer, setting, plot)
        save_model(model, out)
        after = chances(whole, tok, heldout, params.context)
    rows = [asdict(pair) | {"chance": round(chance, 4)} for pair, chance in zip(heldout, after, strict=True)]
    write_lines(out / VERDICTS, rows)
    return (
        figures
        | accuracy("after", after)
        | result.figures()
        | {
            "pairs": float(len(trained)),
            "comparisons_too_long": float(len(dialogues) - len(fitting)),
            "epochs": params.epochs(source),
        }
    )


if __name__ == "__main__":
    main(run, SECTION)
