"""How time grows with sequence length, experts and batch, ours and the peers', around the laptop recipe.

Every point measures three figures: forward and backward (against `transformers`), the MuonClip update (against
`torch.optim.Muon` on the same matrices, without the AdamW part that MuonClip has), and decoding (against
`transformers`' generate). Along the sequence length a training batch keeps its number of tokens.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.decoding import our_decoding, peer_decoding
from benchmarks.harness import ROOT, alternate, commit, machine
from benchmarks.peers import our_pass, peer_pass, twin, use_fastest
from benchmarks.scale import Scale, build, random_batch
from benchmarks.update import matrices, muonclip_update, torch_muon
from k2core.model.config import ModelConfig

DATA = ROOT / "benchmarks" / "growth.json"
PICTURE = ROOT / "docs" / "bench-growth.svg"
CAPTION = "Growth with sequence length, experts and batch"

FIGURES = {
    "forward_backward": "forward + backward,\nµs per token",
    "update": "optimiser's update,\nms",
    "decoding": "decoding,\ntokens/s",
}
"""Name in growth.json → label with unit."""
NEW_TOKENS = 32
"""Decoded by each sequence, at most."""


def run(scale: Scale) -> list[dict[str, Any]]:
    """One point for each value of each axis: `axis`, `value`, and `{ours, peer}` for each figure."""
    laptop = next(iter(scale.models.values()))
    points = []
    for axis, values in scale.growth.items():
        for value in values:
            config, rows, sequences, context = laptop, scale.rows, scale.rows, scale.context
            if axis == "experts":
                config = laptop.model_copy(update={"n_routed_experts": value})
            elif axis == "batch":
                rows = sequences = value
            else:
                rows, context = scale.rows * scale.context // value, value
            figures = _point(config, rows, sequences, context, scale)
            points.append({"axis": axis, "value": value, **figures, "machine": machine(), "commit": commit()})
    return points


def _point(config: ModelConfig, rows: int, sequences: int, context: int, scale: Scale) -> dict[str, dict[str, float]]:
    model = build(config)
    peer = twin(model)
    batch = random_batch(config, rows, context)
    prompts_BT, _ = random_batch(config, sequences, context)
    new_tokens = min(NEW_TOKENS, scale.new_tokens)
    peer_training, peer_sampling = peer_pass(peer, *batch), peer_decoding(peer, prompts_BT, new_tokens)

    use_fastest(peer, peer_training, tokens=batch[0].numel(), training=True)
    training = _medians({"ours": our_pass(model, *batch), "peer": peer_training}, scale)
    use_fastest(peer, peer_sampling, tokens=prompts_BT.numel(), training=False)
    decoding = _medians({"ours": our_decoding(model, prompts_BT, new_tokens), "peer": peer_sampling}, scale)
    update = _medians(
        {
            "ours": muonclip_update(model, scale.optimizer, *batch),
            "peer": torch_muon(matrices(model), scale.optimizer),
        },
        scale,
    )
    return {
        "forward_backward": {who: 1e6 * seconds / batch[0].numel() for who, seconds in training.items()},
        "update": {who: 1e3 * seconds for who, seconds in update.items()},
        "decoding": {who: sequences * new_tokens / seconds for who, seconds in decoding.items()},
    }


def _medians(works: dict[str, Any], scale: Scale) -> dict[str, float]:
    times = alternate(works, rounds=scale.few_rounds, seconds=0)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """A panel for each figure and axis, as SVG that is equal for equal points."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "k2", "font.size": 9})
    from matplotlib import pyplot, ticker

    axes_names = list(dict.fromkeys(point["axis"] for point in points))
    figure, grid = pyplot.subplots(
        len(FIGURES), len(axes_names), figsize=(9, 7), sharex="col", sharey="row", squeeze=False, layout="constrained"
    )
    for row, (name, label) in zip(grid, FIGURES.items(), strict=True):
        for panel, axis in zip(row, axes_names, strict=True):
            shown = [point for point in points if point["axis"] == axis]
            values = [point["value"] for point in shown]
            for who, colour in (("ours", "#2f6fed"), ("peer", "#8a8f98")):
                panel.plot(values, [point[name][who] for point in shown], "o-", color=colour, label=who, ms=4)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
            panel.yaxis.set_minor_formatter(ticker.NullFormatter())
            panel.set_xticks(values, [str(value) for value in values])
            panel.grid(alpha=0.3)
        row[0].set_ylabel(label)
    for panel, axis in zip(grid[-1], axes_names, strict=True):
        panel.set_xlabel(axis)
    grid[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
