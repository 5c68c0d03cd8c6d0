"""The pictures of the context extension: loss by position, needles by depth and length, copy gain by distance."""

from __future__ import annotations

import re

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from k2core.report.pictures import COLOURS, styled
from k2core.report.results import Results

STAGE = "extend_context"
NAMES = {
    "before": "before the extension",
    "yarn": "YaRN, not trained",
    "after": "YaRN and training",
    "without_yarn": "training without YaRN",
}
"""Model in the stage's figures → what it is."""
SHADES = dict(zip(NAMES, (COLOURS[-1], COLOURS[1], COLOURS[0], COLOURS[2]), strict=True))

Series = dict[str, dict[int, float]]
"""Model → number in the figure's name → value."""


def loss_by_position(results: Results) -> go.Figure | None:
    """Nats per token by position, and how much less than before the extension, on the same windows."""
    figures = results.figures.get(STAGE, {})
    series = _series(figures, r"nats_per_token/position_(\d+)-\d+")
    if not series:
        return None
    labels = _labels(figures)
    picture = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    for model, values in series.items():
        style = {"name": NAMES[model], "legendgroup": model, "line_color": SHADES[model], "mode": "lines+markers"}
        buckets = [labels[low] for low in values]
        picture.add_scatter(x=buckets, y=list(values.values()), row=1, col=1, **style)
        saved = [f"{model}/nats_saved/position_{bucket}" for bucket in buckets]
        if model != "before":
            picture.add_scatter(
                x=buckets, y=[figures[name] for name in saved], error_y=_errors(figures, saved), showlegend=False,
                row=1, col=2, **style,
            )  # fmt: skip
    picture.add_hline(y=0, line_color=COLOURS[-1], line_width=1, row=1, col=2)
    windows = f"position in the long window, tokens ({figures['samples/windows']:.0f} windows)"
    picture.update_xaxes(title_text=windows, type="category")
    picture.update_yaxes(title_text="nats per token", row=1, col=1)
    picture.update_yaxes(title_text="nats per token saved (95%)", row=1, col=2)
    return styled(picture, 400)


def needles(results: Results) -> go.Figure | None:
    """Share of needles found, a heat map of depth and length for each model."""
    figures = results.figures.get(STAGE, {})
    lengths = sorted({int(n) for key in figures for n in re.findall(r"^before/needle/length_(\d+)$", key)})
    models = [model for model in NAMES if f"{model}/needle/length_{lengths[0]}" in figures] if lengths else []
    if not models:
        return None
    depths = list(_series(figures, rf"needle/length_{lengths[0]}/depth_(\d+)")["before"])
    titles = [NAMES[model] for model in models]
    picture = make_subplots(rows=1, cols=len(models), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.02)
    for place, model in enumerate(models, 1):
        shares = [[figures[f"{model}/needle/length_{n}/depth_{depth}"] for n in lengths] for depth in depths]
        columns = [f"{n:,}<br>{figures[f'{model}/needle/length_{n}']:.1%}" for n in lengths]
        picture.add_heatmap(
            x=columns, y=[f"{depth}%" for depth in depths], z=shares, texttemplate="%{z:.0%}", coloraxis="coloraxis",
            row=1, col=place,
        )  # fmt: skip
    below = (
        f"length in tokens, and the share over all depths ({figures['samples/needles_a_cell']:.0f} needles per cell, "
        f"chance {figures['samples/needle_chance']:.1%})"
    )
    picture.add_annotation(text=below, x=0.5, y=-0.2, xref="paper", yref="paper", yanchor="top", showarrow=False)
    picture.update_xaxes(type="category")
    picture.update_yaxes(title_text="depth", row=1, col=1)
    picture.update_yaxes(type="category", autorange="reversed")
    picture.update_layout(coloraxis={"colorscale": "Blues", "cmin": 0, "cmax": 1, "colorbar_tickformat": ".0%"})
    return styled(picture, 380).update_layout(margin_b=80)


def copy_gain(results: Results) -> go.Figure | None:
    """How much an earlier occurrence of a passage lowers its loss, by distance, with 95% intervals."""
    figures = results.figures.get(STAGE, {})
    series = _series(figures, r"copy_gain/distance_(\d+)")
    if not series:
        return None
    picture = go.Figure()
    for model, values in series.items():
        picture.add_bar(
            x=[f"{distance:,}" for distance in values], y=list(values.values()), name=NAMES[model],
            error_y=_errors(figures, [f"{model}/copy_gain/distance_{distance}" for distance in values]),
            marker_color=SHADES[model],
        )  # fmt: skip
    across = f"tokens since the passage occurred before ({figures['samples/passages']:.0f} passages per distance)"
    picture.update_layout(
        barmode="group", xaxis={"title": across, "type": "category"},
        yaxis_title="copy gain, nats per token (95%)",
    )  # fmt: skip
    return styled(picture, 360)


def _series(figures: dict[str, float], pattern: str) -> Series:
    """The figures `MODEL/pattern` with one number in it, models in the order of `NAMES`, numbers ascending."""
    found: Series = {}
    for model in NAMES:
        matches = ((re.fullmatch(f"{model}/{pattern}", key), value) for key, value in figures.items())
        values = {int(match[1]): value for match, value in matches if match}
        if values:
            found[model] = dict(sorted(values.items()))
    return found


def _labels(figures: dict[str, float]) -> dict[int, str]:
    """First position of a bucket → `LOW-HIGH`."""
    found = (re.fullmatch(r"before/nats_per_token/position_((\d+)-\d+)", key) for key in figures)
    return {int(match[2]): match[1] for match in found if match}


def _errors(figures: dict[str, float], names: list[str]) -> dict:
    """Bars from the interval's lower to its upper end."""
    return {
        "type": "data", "thickness": 1, "array": [figures[f"{name}/high"] - figures[name] for name in names],
        "arrayminus": [figures[name] - figures[f"{name}/low"] for name in names],
    }  # fmt: skip
