"""Supervised fine-tuning in K2's chat format, loss on assistant tokens (K2 §3.1).

The mixture: judged trajectories (repeated) and gym items with their correct answers, in whole dialogues packed into
rows, and text of pre-training, without which language modelling is forgotten. Tools are declared in TypeScript or, for
a share of the dialogues, in JSON. A tenth of the tasks and the gym's held-out items are held out and show what was
learnt.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.gym.settings import GymConfig
from k2core.machine import Compute
from k2core.optim.optimizer import OptimizerConfig
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import Split
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.fine_tuning import FineTuning, fine_tune
from k2core.training.spikes import SpikeConfig

SECTION = "sft"


class Params(FineTuning):
    """What is imitated, for how long and how fast."""

    trajectory_repeats: int = Field(ge=1, description="copies of each trajectory in an epoch of the mixture")
    json_share: float = Field(ge=0, le=1, description="share of dialogues that declare their tools in JSON")
    demonstrations: dict[str, int] = Field(description="gym items with correct answers, by environment")
    text: dict[str, float] = Field(description="share of all targets that is text of pre-training, by domain")
    heldout_items: int = Field(
        ge=1, description="held-out items per environment, and held-out trajectories, for the loss"
    )


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
    tokens: Path,
    out: Path,
    plot: Path,
    job: Job,
) -> Metrics:
    """Fine-tune `init` and report the held-out loss before and after."""
    compute.apply()
    parallel = parallel.of(SECTION)
    from k2core.chat.tokenizer import Tokenizer
    from k2core.data.rows.shards import TokenShards
    from k2core.gym.demonstrations import encode_gym, encode_trajectories, read_trajectories, some, split_trajectories
    from k2core.gym.judging import Models
    from k2core.gym.registry import select, text_environments
    from k2core.model.files import save_model
    from k2core.training.dialogues import Dialogue, DialogueSource, dialogue_loss, text_dialogues
    from k2core.training.ranks import joined
    from k2core.training.setting import Setting

    tok, seed = Tokenizer.load(tokenizer), compute.seed
    accepted = read_trajectories(trajectories / "accepted.jsonl")
    environments = text_environments(gym, Models(gym.llm, compute, job.answers))
    counts = select(environments, params.demonstrations, "sft.demonstrations")

    def judged(split: Split, limit: int, repeats: int) -> list[Dialogue]:
        chosen = some(split_trajectories(accepted, split), limit, seed)
        return encode_trajectories(tok, chosen, seed=seed, json_share=params.json_share, repeats=repeats)

    def short(dialogues: list[Dialogue]) -> list[Dialogue]:
        return [dialogue for dialogue in dialogues if len(dialogue.tokens) <= params.context]

    trained = judged("train", len(accepted), params.trajectory_repeats) + encode_gym(
        tok, environments, counts, "train", seed
    )
    fitting = short(trained)
    few = dict.fromkeys(counts, params.heldout_items)
    heldout = {
        "trajectories": short(judged("heldout", params.heldout_items, 1)),
        "gym": short(encode_gym(tok, environments, few, "heldout", seed)),
    }
    empty = [name for name, dialogues in heldout.items() if not dialogues]
    if empty or not fitting:
        raise StageError(
            f"{trajectories}: no {'held-out ' + empty[0] if empty else 'dialogues'} within {params.context} tokens; "
            "raise sft.context or make more trajectories"
        )
    targets = sum(sum(dialogue.mask) for dialogue in fitting)
    replayed = text_dialogues(TokenShards(tokens), params.text, targets=targets, context=params.context, seed=seed)
    source = DialogueSource(
        fitting + replayed, context=params.context, batch_rows=params.batch_rows, seed=seed, shared=parallel.context
    )
    job.say(
        f"{len(fitting)} dialogues ({len(trained) - len(fitting)} too long) and {len(replayed)} pieces of text in "
        f"{len(source)} rows of {params.context}; {params.epochs(source):.1f} epochs"
    )

    def losses(when: str) -> Metrics:
        return {
            f"heldout/{name}_loss_{when}": dialogue_loss(
                ranks.whole_rows(model), dialogues, context=params.context, batch_rows=params.batch_rows
            )
            for name, dialogues in heldout.items()
        }

    with joined(parallel) as ranks:
        model = ranks.load(init, parallel)
        figures = losses("before")
        setting = Setting(job, spikes, checkpoint, ranks, parallel.at_once)
        result = fine_tune(model, source, params, optimizer, setting, plot)
        save_model(model, out)
        figures |= losses("after")
    return (
        figures
        | result.figures()
        | {
            "dialogues": float(len(fitting)),
            "dialogues_too_long": float(len(trained) - len(fitting)),
            "epochs": params.epochs(source),
        }
    )


if __name__ == "__main__":
    main(run, SECTION)
