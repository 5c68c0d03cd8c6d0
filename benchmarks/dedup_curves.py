"""What deduplication finds by similarity, and what it costs as the corpus grows ×1, ×4, ×16: ours and datatrove's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.dedup import DIFFERENT, DUPLICATE, WAYS, datatrove_spaces, ours, real, share_found, written
from benchmarks.harness import ROOT, commit, machine
from benchmarks.scale import LAPTOP, Scale
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.recipe.section import load_section

DATA = ROOT / "benchmarks" / "dedup_curves.json"
PICTURE = ROOT / "docs" / "bench-dedup.svg"
CAPTION = "Near duplicates: what is found by similarity, and what it costs as the corpus grows"
COLOURS = {"ours": "#2f6fed", "datatrove": "#8a8f98", "datatrove, spaces": "#e8710a"}


def run(scale: Scale) -> dict[str, Any]:
    """`s_curve`: one point per Jaccard similarity; `growth`: one point per number of documents, in µs per document."""
    with written(real(scale.documents[0])) as folder:
        for dedup in WAYS.values():
            dedup(folder)  # imports and caches, which do not count
    growth = []
    for count in scale.documents:
        with written(real(count)) as folder:
            growth.append(
                {"documents": count, **{name: _microseconds(dedup, folder, count) for name, dedup in WAYS.items()}}
            )
    s_curve = [
        {
            "jaccard": jaccard,
            "ours": share_found(ours, jaccard, scale.pairs),
            "datatrove": share_found(datatrove_spaces, jaccard, scale.pairs // 4),
        }
        for jaccard in scale.jaccards
    ]
    return {"s_curve": s_curve, "growth": growth, "machine": machine(), "commit": commit()}


def _microseconds(dedup: Any, folder: Path, count: int) -> float:
    start = time.perf_counter()
    dedup(folder)
    return 1e6 * (time.perf_counter() - start) / count


def theory(jaccard: float) -> float:
    """The probability that two independent signatures share a bucket."""
    config = load_section(MinhashConfig, LAPTOP, "tag", "minhash")
    return 1 - (1 - jaccard**config.hashes_per_bucket) ** config.buckets


def draw(points: dict[str, Any], path: Path) -> None:
    """Two panels, as SVG that is equal for equal points."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "k2", "font.size": 9})
    from matplotlib import pyplot, ticker

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    fine = [i / 100 for i in range(25, 101)]
    left.plot(fine, [theory(s) for s in fine], ":", color="#5f6368", label="14 buckets of 8, in theory")
    for who in ("datatrove", "ours"):
        shown = [(point["jaccard"], point[who]) for point in points["s_curve"]]
        left.plot(*zip(*shown, strict=True), "o-", color=COLOURS[who], label=who, ms=4)
    for wanted in (DIFFERENT, DUPLICATE):
        left.axvline(wanted, color="#dadce0", lw=1, zorder=0)
    left.set(xlabel="Jaccard similarity of the planted pair", ylabel="share of pairs found")
    sizes = [point["documents"] for point in points["growth"]]
    for who, colour in COLOURS.items():
        right.plot(sizes, [point[who] for point in points["growth"]], "o-", color=colour, label=who, ms=4)
    right.set(xlabel="documents", ylabel="µs per document", xscale="log", yscale="log")
    right.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    right.set_xticks(sizes, [f"{size:,}" for size in sizes])
    right.xaxis.set_minor_locator(ticker.NullLocator())
    for panel in (left, right):
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
