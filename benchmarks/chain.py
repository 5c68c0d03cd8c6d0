"""Write what a run of the chain measured into docs/measurements.md and the README.

First `make demo | tee demo.log`, `time make demo` and `time make test`, then
`python -m benchmarks.chain demo.log --again SECONDS --tests SECONDS`. For the evening recipe first
`make recipe NAME=evening` and `make demo | tee evening.log`, then
`python -m benchmarks.chain evening.log --block evening`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from benchmarks import evening, harness, pages
from k2core.figures.intervals import gain
from k2core.report.results import MODELS, phases_of
from k2core.storage import write_json
from stages.report import SEED

FIGURES = "benchmarks/chain.json"
"""The figures of the block and those behind them, with machine and commit."""
SCORES = {
    "tool_calls/valid_when_due": "calls that are due and valid by schema, greedy",
    "tool_calls/schema_accuracy": "valid by schema, of responses that call",
    "tool_calls/trigger_accuracy": "calls exactly when it should",
    "tool_calls/exact": "calls that are due and exact",
    "tool_calls/enforced/exact": "… with the Enforcer",
    "dialogues/answer": "right answers after right calls, greedy",
    "dialogues/pass_hat_1/single": "whole dialogues of one call passed, sampled at temperature 1",
    "enforced_dialogues/pass_hat_1/single": "… with the Enforcer",
    "enforced_dialogues/greedy/single": "… with the Enforcer, greedy",
    "tasks/pass_rate": "**task pass rate**, sampled at temperature 1",
    "tasks/pass_rate/sort_numbers": "… sorting digits",
    "tasks/pass_rate/spell_backward": "… spelling backwards",
    "tasks/pass_rate/count_letters": "… counting letters",
    "tasks/pass_rate/pick_largest": "… picking the largest number",
    "tasks/pass_rate/tool_call": "… tool tasks",
    "tasks/greedy": "task pass rate, greedy",
    "heldout/bits_per_byte": "held-out bits per byte of raw text",
}
GAINS = {"tool_calls/valid_when_due": ("base", "sft"), "tasks/pass_rate": ("sft", "rl")}
"""Score → the two models that are compared by it, in pairs."""


def main(
    first: Path = typer.Argument(help="what `make demo` printed on a clean clone"),
    block: Literal["chain", "evening"] = typer.Option("chain", help="which block of docs/measurements.md"),
    again: float | None = typer.Option(None, help="seconds that a second `make demo` took (block chain)"),
    tests: float | None = typer.Option(None, help="seconds that `make test` took (block chain)"),
) -> None:
    """Rewrite a block of docs/measurements.md from the log and the metrics of this workspace."""
    log = first.read_text()
    total = float(re.search(r"the chain took ([\d.]+) s", log)[1])
    if block == "evening":
        lines = evening.block(total, Path(), harness.ROOT / evening.PICTURE)
        lines += ["", f"Measured on {harness.machine()}, commit {harness.commit()}."]
    elif again is None or tests is None:
        raise typer.BadParameter("block chain needs --again and --tests")
    else:
        figures = measured(log, total, again, tests)
        write_json(harness.ROOT / FIGURES, figures)
        lines = chain_block(figures)
    pages.rewrite(harness.ROOT / pages.MEASUREMENTS, block, "\n".join(lines))
    if block == "chain":
        from benchmarks import headlines

        headlines.write(harness.ROOT)


def measured(log: str, total: float, again: float, tests: float) -> dict[str, Any]:
    """What `benchmarks/chain.json` holds, from the log of `make demo` and the outputs of this workspace.

    Args:
        total: seconds that the chain took.
        again: seconds that a second `make demo` took.
        tests: seconds that `make test` took.
    """
    # `sources` looks at what lies outside; that is orchestration.
    done = re.findall(r"\[([\w@]+)\] done in ([\d.]+) s", log)
    own = [float(seconds) for stage, seconds in done if stage != "sources"]
    metrics = {path.stem: json.loads(path.read_text()) for path in Path("metrics").glob("*.json")}
    scores = {name: json.loads(Path(f"data/evals/{name}/scorecard.json").read_text())["scores"] for name in MODELS}
    gains = {score: _gain(before, after, score) for score, (before, after) in GAINS.items()}
    return {
        "seconds": total, "stages": len(own), "seconds_outside_stages": total - sum(own),
        "seconds_of_a_second_run": again, "seconds_of_make_test": tests,
        "scores": scores, "gains": gains, "metrics": metrics,
        "machine": harness.machine(), "commit": harness.commit(),
    }  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """A time of the chain with its goal.

    Attributes:
        measured: as it is shown; `goal` likewise.
        headline: whether the README has it.
    """

    label: str
    measured: str
    goal: str
    met: bool
    headline: bool = True


def timings(figures: dict[str, Any]) -> list[Timing]:
    """The times that `figures` (`benchmarks/chain.json`) holds."""
    total, rest = figures["seconds"], figures["seconds_outside_stages"]
    again, tests = figures["seconds_of_a_second_run"], figures["seconds_of_make_test"]
    return [
        Timing("the chain by `make demo`, after installation", f"{total:.0f} s", "1200 s", total <= 1200),
        Timing("of that outside the stages", f"{rest:.0f} s, {rest / total:.1%}", "8%", rest <= 0.08 * total, False),
        Timing("a second `make demo`", f"{again:.1f} s", "3 s", again <= 3, False),
        Timing("`make test`, installation included", f"{tests:.0f} s", "1200 s", tests <= 1200),
    ]


def timing_row(timing: Timing) -> str:
    """A line of a table with the columns label, measured, goal and verdict."""
    return f"| {timing.label} | {timing.measured} | {timing.goal} | {pages.VERDICTS[timing.met]} |"


def bits(metrics: dict[str, Any], suffix: str = "") -> list[float]:
    """Held-out bits per byte before training, after each phase and after the context extension.

    Args:
        metrics: stage → its figures.
        suffix: `/DOMAIN`, or empty for all domains.
    """
    key, stages = f"heldout/bits_per_byte{suffix}", [f"pretrain-{phase}" for phase in phases_of(metrics)]
    before = metrics[stages[0]][f"heldout/bits_per_byte_before{suffix}"]
    return [before, *(metrics[stage][key] for stage in [*stages, "extend_context"])]


def chain_block(figures: dict[str, Any]) -> list[str]:
    """The block `chain` as lines of Markdown, from the content of `benchmarks/chain.json`."""
    metrics, scores, phases = figures["metrics"], figures["scores"], phases_of(figures["metrics"])
    calls, tasks = (_interval(figures["gains"][score], "+") for score in GAINS)
    return [
        "| | measured | goal | |", "|---|---|---|---|",
        *(timing_row(timing) for timing in timings(figures)),
        "", "Held-out bits per byte:", "",
        "| | untrained | " + " | ".join(phases) + " | YaRN |", "|---|" + "---|" * (len(phases) + 2),
        *(f"| {label} | " + " | ".join(f"{value:.3f}" for value in bits(metrics, suffix)) + " |"
          for label, suffix in (("all domains", ""), ("Wikipedia summaries", "/knowledge"), ("Python", "/code"))),
        "", "The three models on the same held-out items (95% intervals):", "",
        "| | base | SFT | RL |", "|---|---|---|---|",
        *(f"| {label} | " + " | ".join(_interval(scores[name][key]) for name in MODELS) + " |"
          for key, label in SCORES.items()),
        "",
        f"On the same items, in pairs: SFT over base, calls due and valid {calls}; RL over SFT, task pass rate "
        f"{tasks}.",
        "",
        f"Rephrasing: {metrics['rephrase']['accepted']:.0f} of {metrics['rephrase']['rewrites']:.0f} rewrites by the "
        f"135M model passed the fidelity gate. Trajectories: {metrics['trajectories']['accepted']:.0f} accepted, "
        f"{metrics['trajectories']['rejected']:.0f} rejected by the judge. Export: `transformers` gives logits equal "
        f"within {metrics['export']['export/max_logit_difference']:.1e}. Measured on {figures['machine']}, commit "
        f"{figures['commit']}.",
    ]  # fmt: skip


def _gain(before: str, after: str, score: str) -> dict[str, float]:
    first, second = (json.loads(Path(f"data/evals/{name}/items.json").read_text())[score] for name in (before, after))
    return gain(first, second, SEED)


def _interval(score: dict[str, float], sign: str = "") -> str:
    interval = f" ({score['low']:{sign}.3f} to {score['high']:{sign}.3f})" if "low" in score else ""
    return f"{score['value']:{sign}.3f}{interval}"


if __name__ == "__main__":
    typer.run(main)
