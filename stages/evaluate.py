"""One scorecard for a model: held-out bits per byte, tool calls, task pass rates (K2 §4).

Every model, the base model too, gets the same chat prompts, items and seeds, so that the scorecards compare.
"""

from __future__ import annotations

from pathlib import Path

from k2core.evals.settings import Settings
from k2core.gym.settings import GymConfig
from k2core.machine import Compute
from k2core.sandbox.config import SandboxConfig
from k2core.stage import Job, Metrics, main

SECTION = "evaluate"
TRACED = 5
"""Whole dialogues that MLflow shows."""


class Params(Settings):
    """How much is measured."""


def run(
    params: Params,
    gym: GymConfig,
    compute: Compute,
    sandbox: SandboxConfig,
    name: str,
    model: Path,
    tokenizer: Path,
    tokens: Path,
    tasks: Path,
    programs: Path,
    out: Path,
    job: Job,
) -> Metrics:
    """Measure `model` and write `scorecard.json` and `samples.jsonl`."""
    compute.apply()
    sandbox.apply()
    import json

    from k2core.chat.tokenizer import Tokenizer
    from k2core.evals.scorecard import measure
    from k2core.evals.subject import Subject
    from k2core.gym.judging import Models
    from k2core.gym.tool_call import all_environments
    from k2core.model.files import load_model
    from k2core.storage import write_json, write_text

    environments = all_environments(tasks, programs, gym, Models(gym.llm, compute, job.answers))
    job.say(f"{name}: up to {params.items} items of {', '.join(environments)}; greedy and {params.samples} samples")
    subject = Subject(load_model(model), Tokenizer.load(tokenizer), tokens, environments, params, compute.seed)
    found = measure(subject)
    out.mkdir()
    write_json(out / "scorecard.json", {"model": name, "scores": found.scores})
    write_json(out / "items.json", found.items)
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in found.samples]
    write_text(out / "samples.jsonl", "".join(line + "\n" for line in lines))
    for row in [row for row in found.samples if "messages" in row][:TRACED]:
        about = {"model": name, "task": row["task"], "kind": row["kind"], "score": row["score"]}
        job.trace(f"rollout of {name}", row["messages"], about)
    return {key: score["value"] for key, score in found.scores.items()}


if __name__ == "__main__":
    main(run, SECTION)
