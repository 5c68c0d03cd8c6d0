"""One scorecard for a model: held-out bits per byte, tool calls, task pass rates (K2 §4).

Every model, the base model too, gets the same chat prompts, items and seeds, so that the scorecards compare.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, main

SECTION = "evaluate"


class Params(Section):
    """How much is measured."""

    context: int = Field(ge=32, description="tokens a window of held-out text")
    items: int = Field(ge=1, description="held-out items an environment")
    samples: int = Field(ge=1, description="responses to each item at temperature 1; also the K of pass@K and pass^K")
    readable: int = Field(ge=0, description="items an environment in samples.jsonl")


def run(
    params: Params,
    compute: Compute,
    name: str,
    model: Path,
    tokenizer: Path,
    tokens: Path,
    tasks: Path,
    out: Path,
    job: Job,
) -> Metrics:
    """Measure `model` and write `scorecard.json` and `samples.jsonl`."""
    compute.apply()
    import json

    from k2core.chat.tokenizer import Tokenizer
    from k2core.evals.environments import attempt
    from k2core.evals.scorecard import call_scores, item_scores, readable, task_scores
    from k2core.evals.tool_calls import check_calls
    from k2core.gym.registry import all_environments
    from k2core.model.files import load_model
    from k2core.storage import write_json, write_text
    from k2core.training.heldout import bits_per_byte, figure_names

    tok, transformer, environments = Tokenizer.load(tokenizer), load_model(model), all_environments(tasks)
    job.say(f"{name}: up to {params.items} items of {', '.join(environments)}; greedy and {params.samples} samples")

    def attempts(samples: int, temperature: float) -> dict:
        return attempt(
            transformer,
            tok,
            environments,
            items=params.items,
            samples=samples,
            temperature=temperature,
            seed=compute.seed,
        )

    bits = bits_per_byte(transformer.on_cpu, tokens, context=params.context)
    scores = {key: {"value": value} for key, value in figure_names(bits).items()}
    greedy, sampled = attempts(1, 0.0), attempts(params.samples, 1.0)
    checks = [
        check_calls(tried.rollouts[0].text, tried.item.tools, tried.item.meta["gold_calls"])
        for tried in greedy["tool_call"]
    ]
    scores |= call_scores(checks) | task_scores(greedy, sampled, compute.seed)
    out.mkdir()
    write_json(out / "scorecard.json", {"model": name, "scores": scores})
    write_json(out / "items.json", item_scores(checks, sampled))
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) for row in readable(greedy, params.readable)]
    write_text(out / "samples.jsonl", "".join(line + "\n" for line in lines))
    return {key: score["value"] for key, score in scores.items()}


if __name__ == "__main__":
    main(run, SECTION)
