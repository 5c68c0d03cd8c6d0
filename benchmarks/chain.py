"""Write what a run of the chain measured into the README: `make demo | tee demo.log`, `time make demo`,
`time make test`, then `python -m benchmarks.chain demo.log --again SECONDS --tests SECONDS`. After the
evening recipe (`make recipe NAME=evening`, `make demo | tee evening.log`): `python -m benchmarks.chain evening.log
--block evening`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import typer

from benchmarks import evening, harness, readme
from k2core.evals.intervals import gain
from k2core.report.results import MODELS, PHASES
from k2core.storage import write_json
from stages.report import SEED

FIGURES = "benchmarks/chain.json"
"""The figures of the README's block and those behind them, with machine and commit."""
SCORES = {
    "tool_calls/valid_when_due": "calls that are due and valid by schema, greedy",
    "tool_calls/schema_accuracy": "valid by schema, of responses that call",
    "tool_calls/trigger_accuracy": "calls exactly when it should",
    "tool_calls/exact": "calls that are due and exact",
    "tasks/pass_rate": "**task pass rate**, sampled at temperature 1",
    "tasks/pass_rate/sort_numbers": "… sorting digits",
    "tasks/pass_rate/spell_backward": "… spelling backwards",
    "tasks/pass_rate/count_letters": "… counting letters",
    "tasks/pass_rate/pick_largest": "… picking the largest number",
    "tasks/pass_rate/tool_call": "… tool tasks",
    "tasks/greedy": "task pass rate, greedy",
    "heldout/bits_per_byte": "bits per byte",
}


def main(
    first: Path = typer.Argument(help="what `make demo` printed on a clean clone"),
    block: Literal["chain", "evening"] = typer.Option("chain", help="which block of the README"),
    again: float | None = typer.Option(None, help="seconds that a second `make demo` took (block chain)"),
    tests: float | None = typer.Option(None, help="seconds that `make test` took (block chain)"),
) -> None:
    """Rewrite a block of the README from the log and the metrics of this workspace."""
    log = first.read_text()
    total = float(re.search(r"the chain took ([\d.]+) s", log)[1])
    if block == "evening":
        lines = evening.block(total, Path(), harness.ROOT / evening.PICTURE)
        lines += ["", f"Measured on {harness.machine()}, commit {harness.commit()}."]
    elif again is None or tests is None:
        raise typer.BadParameter("block chain needs --again and --tests")
    else:
        lines = _chain(log, total, again, tests)
    readme.rewrite(harness.ROOT / "README.md", block, "\n".join(lines))


def _chain(log: str, total: float, again: float, tests: float) -> list[str]:
    # `sources` looks at what lies outside; that is orchestration.
    done = re.findall(r"\[([\w@]+)\] done in ([\d.]+) s", log)
    own = [float(seconds) for stage, seconds in done if stage != "sources"]
    metrics = {path.stem: json.loads(path.read_text()) for path in Path("metrics").glob("*.json")}
    scores = {name: json.loads(Path(f"data/evals/{name}/scorecard.json").read_text())["scores"] for name in MODELS}
    rest = total - sum(own)
    figures = {
        "seconds": total, "stages": len(own), "seconds_outside_stages": rest, "seconds_of_a_second_run": again,
        "seconds_of_make_test": tests, "scores": scores, "metrics": metrics,
        "machine": harness.machine(), "commit": harness.commit(),
    }  # fmt: skip
    write_json(harness.ROOT / FIGURES, figures)
    return [
        "| | measured | goal |", "|---|---|---|",
        f"| the chain, {len(own)} stages, by `make demo` after installation | {total:.0f} s | 900 s |",
        f"| of that not a stage's own work | {rest:.0f} s, {rest / total:.1%} | 8% |",
        f"| a second `make demo` | {again:.1f} s | 3 s |",
        f"| `make test`, installation included | {tests:.0f} s | 1200 s |",
        "", "Held-out bits per byte:", "",
        "| | untrained | " + " | ".join(PHASES) + " | YaRN |", "|---|" + "---|" * (len(PHASES) + 2),
        *(_bits(metrics, label, suffix) for label, suffix in
          (("all domains", ""), ("Wikipedia summaries", "/knowledge"), ("Python", "/code"))),
        "", "The three models on the same held-out items (95% intervals):", "",
        "| | base | SFT | RL |", "|---|---|---|---|",
        *(f"| {label} | " + " | ".join(_score(scores[name][key]) for name in MODELS) + " |"
          for key, label in SCORES.items()),
        "",
        "On the same items, in pairs: SFT over base, calls due and valid "
        f"{_gain('base', 'sft', 'tool_calls/valid_when_due')}; "
        f"RL over SFT, task pass rate {_gain('sft', 'rl', 'tasks/pass_rate')}.",
        "",
        f"Rephrasing: {metrics['rephrase']['accepted']:.0f} of {metrics['rephrase']['rewrites']:.0f} rewrites by the "
        f"135M model passed the fidelity gate. Trajectories: {metrics['trajectories']['accepted']:.0f} accepted, "
        f"{metrics['trajectories']['rejected']:.0f} rejected by the judge. Export: `transformers` gives logits equal "
        f"within {metrics['export']['export/max_logit_difference']:.1e}. Measured on {harness.machine()}, commit "
        f"{harness.commit()}.",
    ]  # fmt: skip


def _bits(metrics: dict[str, Any], label: str, suffix: str) -> str:
    key = f"heldout/bits_per_byte{suffix}"
    values = [metrics["pretrain-stable"][f"heldout/bits_per_byte_before{suffix}"]]
    values += [metrics[f"pretrain-{phase}"][key] for phase in PHASES] + [metrics["extend_context"][key]]
    return f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def _gain(before: str, after: str, score: str) -> str:
    first, second = (json.loads(Path(f"data/evals/{name}/items.json").read_text())[score] for name in (before, after))
    found = gain(first, second, SEED)
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def _score(score: dict[str, float]) -> str:
    interval = f" ({score['low']:.3f} to {score['high']:.3f})" if "low" in score else ""
    return f"{score['value']:.3f}{interval}"


if __name__ == "__main__":
    typer.run(main)
