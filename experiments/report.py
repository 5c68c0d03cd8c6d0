"""Table 1 in miniature as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAPER = {"raw": 23.76, "one_rephrasing": 27.39, "all_rephrasings": 28.94}
"""K2, table 1: SimpleQA accuracy, percent."""
LABELS = {
    "base": "none (the base)",
    "raw": "raw × {epochs} epochs",
    "one_rephrasing": "1 rephrasing × {epochs} epochs",
    "all_rephrasings": "{versions} rephrasings × 1 epoch",
    "faq": "{versions} FAQs × 1 epoch",
    "table": "{versions} tables × 1 epoch",
    "tutorial": "{versions} tutorials × 1 epoch",
    "joint": "{versions} joint questions × 1 epoch",
}


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The tables of all rewriters in `results` (table1.json)."""
    return "\n\n".join(_section(rewriter, result) for rewriter, result in results.items())


def _section(rewriter: str, result: Mapping[str, Any]) -> str:
    settings, material = result["settings"], result["material"]
    lines = [
        f"### Rewriter `{rewriter}`",
        f"{material['articles']:.0f} articles, {material['questions']:.0f} questions, "
        f"{len(settings['seeds'])} trainings per arm of {result['tokens']:,.0f} tokens, chance "
        f"{100 / settings['choices']:.0f}%. {100 * material['stood_in_share']:.0f}% of the rephrasings are the source "
        f"itself, for want of an accepted one; the rephrasings have {material['version_length_ratio']:.2f} times the "
        f"sources' length; {material['questions_in_training_text']:.0f} questions stand word for word in the texts.",
        "",
        "| trained on | accuracy, % (95%) | bits of the answer (95%) | tokens of the articles | epochs "
        "| bits per byte: sources | other articles | SimpleQA of K2 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, figures in result["arms"].items():
        lines.append(
            f"| {label(arm, settings)} | {_interval(result['accuracy'][arm], 100)} | "
            f"{_interval(result['bits'][arm])} | {figures.get('mixture/tokens/articles', 0):,.0f} | "
            f"{figures.get('mixture/epochs/articles', 0):.2f} | "
            f"{figures['heldout/bits_per_byte/articles']:.3f} | "
            f"{figures['heldout/bits_per_byte/heldout_articles']:.3f} | {PAPER.get(arm, '')} |"
        )
    lines += ["", "| difference | accuracy, points (95%) | bits of the answer (95%) |", "|---|---|---|"]
    for name in (name for name in result["accuracy"] if " - " in name):
        first, second = (label(arm, settings) for arm in name.split(" - "))
        lines.append(
            f"| {first} less {second} | {_interval(result['accuracy'][name], 100, '+')} | "
            f"{_interval(result['bits'][name], 1, '+')} |"
        )
    kinds = ", ".join(f"{kind} {figures['questions']:.0f}" for kind, figures in result["kinds"].items())
    lines += ["", f"Questions by kind: {kinds}. Measured on {result['machine']}, commit {result['commit']}:"]
    return "\n".join([*lines, f"`{result['command']}`."])


def label(arm: str, settings: Mapping[str, Any]) -> str:
    """An arm's name for a reader."""
    return LABELS[arm].format(**settings)


def _interval(score: Mapping[str, float], scale: float = 1.0, sign: str = "") -> str:
    value, low, high = (f"{scale * score[key]:{sign}.2f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def draw(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Accuracy of each arm with its interval, a panel for each rewriter, as SVG that is equal for equal results."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "k2", "font.size": 9})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(results), figsize=(4.6 * len(results), 2.4), squeeze=False, layout="constrained"
    )
    for panel, (rewriter, result) in zip(panels[0], results.items(), strict=True):
        arms = list(result["arms"])[::-1]
        scores = [result["accuracy"][arm] for arm in arms]
        values = [100 * score["value"] for score in scores]
        reach = [[100 * abs(score["value"] - score[end]) for score in scores] for end in ("low", "high")]
        panel.errorbar(values, range(len(arms)), xerr=reach, fmt="o", color="#2f6fed", capsize=3)
        panel.axvline(100 / result["settings"]["choices"], color="#8a8f98", ls=":", label="chance")
        panel.set_yticks(range(len(arms)), [label(arm, result["settings"]) for arm in arms])
        panel.set_ylim(-0.5, len(arms) - 0.5)
        panel.set_xlabel("accuracy, %")
        panel.set_title(f"rewriter: {rewriter}", fontsize=9)
        panel.grid(alpha=0.3, axis="x")
        panel.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
