"""The evening recipe's block of docs/measurements.md: time, bits per byte with yardsticks, and the picture.

It is made from a finished workspace's `metrics/` and `plots/`.
"""

from __future__ import annotations

import json
from pathlib import Path

from k2core.corpus.documents import DOMAINS
from k2core.report.curves import YARDSTICKS, Curves, collect, plots_of
from k2core.report.pictures import COLOURS
from k2core.report.results import read_curves

PICTURE = "docs/evening-curves.svg"
MODELS = {"before": "before", "yarn": "YaRN, untrained", "after": "YaRN, trained", "without_yarn": "trained without"}
"""Of the extension's figures → column."""
DASHES = {"dash": "--", "dot": ":", "dashdot": "-."}
"""plotly's names → matplotlib's."""


def block(seconds: float, workspace: Path, picture: Path) -> list[str]:
    """Lines of Markdown; the picture is drawn to `picture`.

    Args:
        seconds: that the chain took.

    Raises:
        ValueError: the workspace's plots have no held-out bits per byte.
    """
    figures = {path.stem: json.loads(path.read_text()) for path in (workspace / "metrics").glob("*.json")}
    curves = collect(read_curves(workspace / "plots"), figures)
    if curves is None:
        raise ValueError(f"{workspace / 'plots'}: no curve has val/bpb; run the chain first")
    draw(curves, picture)
    plots = plots_of(figures)
    tokens = [figures[stage]["train/tokens_seen"] / 1e6 for stage in plots.values()]
    whole = "evaluate-rl" in figures
    what = "The chain took" if whole else "What follows YaRN was not run at this recipe; from raw text to there it took"
    return [
        f"{what} {seconds / 60:.0f} minutes. Held-out bits per byte after each phase, beside what compressors make of "
        "the same text:", "",
        "| | untrained | " + " | ".join(plots) + " | " + " | ".join(label for label, _ in YARDSTICKS.values()) + " |",
        "|---|" + "---|" * (1 + len(plots) + len(YARDSTICKS)),
        *(_row(figures, domain) for domain in ("all", *DOMAINS)),
        "| million tokens | 0 | " + " | ".join(f"{seen:.1f}" for seen in tokens) + " |" + " |" * len(YARDSTICKS),
        "",
        f"![Held-out bits per byte by domain over tokens, phase by phase]({Path(PICTURE).name})",
        "",
        *_long_context(figures["extend_context"]),
    ]  # fmt: skip


def _long_context(figures: dict[str, float]) -> list[str]:
    """What YaRN brings: the four models' losses by position and copy gains by distance (`evals/long_context.py`)."""
    kinds = [name.removeprefix("after/") for name in figures if name.startswith("after/")]
    positions = [kind for kind in kinds if kind.startswith("nats_per_token/")]
    gains = [kind for kind in kinds if kind.startswith("copy_gain/") and kind.count("/") == 1]
    lines = [
        "Beyond the context that it was trained with, nats per token by position and, in the last rows, how much less "
        "a passage of 32 tokens loses where it stood before; in brackets the 95% interval of what YaRN saves over the "
        "same training without it:", "",
        "| | " + " | ".join(MODELS.values()) + " | YaRN over without |", "|---|" + "---|" * (len(MODELS) + 1),
    ]  # fmt: skip
    for kind in [*positions, *gains]:
        label = kind.split("/")[1].replace("_", " ")
        saved = "after_over_without_yarn/" + kind.replace("nats_per_token", "nats_saved")
        low, high = figures.get(f"{saved}/low"), figures.get(f"{saved}/high")
        over = "" if low is None else f"{figures[saved]:+.3f} ({low:+.3f} to {high:+.3f})"
        values = " | ".join(f"{figures[f'{model}/{kind}']:.3f}" for model in MODELS)
        what = label if kind in positions else f"copy gain, {label}"
        lines.append(f"| {what} | {values} | {over} |")
    return lines


def _row(figures: dict[str, dict[str, float]], domain: str) -> str:
    suffix = "" if domain == "all" else f"/{domain}"
    stages = list(plots_of(figures).values())
    values = [figures[stages[0]][f"heldout/bits_per_byte_before{suffix}"]]
    values += [figures[stage][f"heldout/bits_per_byte{suffix}"] for stage in stages]
    values += [figures["tokenize"][f"yardstick/{name}{suffix}"] for name in YARDSTICKS]
    return f"| {domain} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def draw(curves: Curves, path: Path) -> None:
    """A panel for each domain, as SVG that is equal for equal curves."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "k2", "font.size": 9})
    from matplotlib import pyplot

    count = len(curves.points)
    figure, panels = pyplot.subplots(1, count, figsize=(11, 3.6), sharey=True, squeeze=False, layout="constrained")
    for panel, (domain, phases) in zip(panels[0], curves.points.items(), strict=True):
        for colour, (phase, points) in zip(COLOURS, phases.items(), strict=False):
            panel.plot(*zip(*points, strict=True), "o-", color=colour, ms=2.5, label=phase)
        for end in list(curves.ends.values())[:-1]:
            panel.axvline(end, color="#d1d9e0", lw=0.8, zorder=0)
        for name, bits in curves.yardsticks[domain].items():
            label, dash = YARDSTICKS[name]
            panel.axhline(bits, color="#5f6368", ls=DASHES[dash], lw=1, label=label)
        panel.set_title(domain)
        panel.set_xlabel("million tokens")
        panel.grid(alpha=0.2)
    panels[0][0].set_ylabel("bits per byte (held-out)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
