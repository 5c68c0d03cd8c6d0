"""Held-out bits per byte by domain over the tokens of all phases, beside what byte-level compressors need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from k2core.report.pictures import COLOURS, styled
from k2core.report.results import PRETRAIN, Curve, Results, phases_of

YARDSTICKS = {
    "xz": ("xz -9e", "dash"),
    "zstd_dictionary": ("zstd with a trained dictionary", "dot"),
    "xz_after_training": ("xz -9e after training text", "dashdot"),
}
"""Compressor in the figures of `tokenize` → label, dash."""
VALUE = "val/bpb"

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    """What the picture shows; `all` is the first domain.

    Attributes:
        points: domain → phase → (millions of tokens seen, bits per byte); a phase begins where the last one ended.
        ends: phase → millions of tokens seen at its end.
        yardsticks: domain → compressor → bits per byte.
    """

    points: dict[str, dict[str, Points]]
    ends: dict[str, float]
    yardsticks: dict[str, dict[str, float]]


def plots_of(figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Phase → the plot that its stage wrote, which is named like the stage in `figures`; the extension is the last."""
    return {**{phase: f"{PRETRAIN}{phase}" for phase in phases_of(figures)}, "YaRN": "extend_context"}


def collect(curves: Mapping[str, Curve], figures: Mapping[str, Mapping[str, float]]) -> Curves | None:
    """The curves of a run's plots and the yardsticks of its figures; None if no phase measured bits per byte.

    Args:
        curves: plot name → column → values.
        figures: stage → figures.
    """
    plots = plots_of(figures)
    measured = {phase: curves[plot] for phase, plot in plots.items() if VALUE in curves.get(plot, {})}
    if not measured:
        return None
    columns = sorted({name for curve in measured.values() for name in curve if name.startswith(VALUE)})
    points: dict[str, dict[str, Points]] = {_domain(column): {} for column in columns}
    for column in columns:
        untrained = figures.get(next(iter(plots.values())), {}).get(_before(column))
        last: Points = [] if untrained is None else [(0.0, untrained)]
        for phase, curve in measured.items():
            pairs = zip(curve["train/tokens_seen"], curve.get(column, ()), strict=False)
            own = [(seen / 1e6, bits) for seen, bits in pairs if seen is not None and bits is not None]
            points[_domain(column)][phase] = last + own
            last = own[-1:] or last
    seen_of = {phase: [seen for seen in curve["train/tokens_seen"] if seen] for phase, curve in measured.items()}
    ends = {phase: seen[-1] / 1e6 for phase, seen in seen_of.items()}
    tokenize = figures.get("tokenize", {})
    yardsticks = {
        domain: {
            name: tokenize[key] for name in YARDSTICKS
            if (key := f"yardstick/{name}" + ("" if domain == "all" else f"/{domain}")) in tokenize
        }
        for domain in points
    }  # fmt: skip
    return Curves(points, ends, yardsticks)


def bits_per_byte(results: Results) -> go.Figure | None:
    """A panel for each domain: the model over all phases, and the compressors as horizontal lines."""
    shown = collect(results.curves, results.figures)
    if shown is None:
        return None
    figure = make_subplots(
        rows=1, cols=len(shown.points), shared_yaxes=True, subplot_titles=list(shown.points), horizontal_spacing=0.02
    )
    colours = dict(zip(shown.ends, cycle(COLOURS), strict=False))
    for place, (domain, phases) in enumerate(shown.points.items(), 1):
        for phase, points in phases.items():
            figure.add_scatter(
                x=[seen for seen, _ in points], y=[bits for _, bits in points], name=phase, legendgroup=phase,
                showlegend=place == 1, line_color=colours[phase], mode="lines+markers", marker_size=5, row=1, col=place,
            )  # fmt: skip
        for end in list(shown.ends.values())[:-1]:
            figure.add_vline(x=end, line={"color": "#d1d9e0", "width": 1}, row=1, col=place)
        for name, bits in shown.yardsticks[domain].items():
            label, dash = YARDSTICKS[name]
            figure.add_scatter(
                x=[0, max(shown.ends.values())], y=[bits, bits], name=label, legendgroup=name, showlegend=place == 1,
                line={"color": "#5f6368", "dash": dash, "width": 1.5}, mode="lines", row=1, col=place,
            )  # fmt: skip
    figure.update_xaxes(title_text="million tokens")
    figure.update_yaxes(title_text="bits per byte (held-out)", row=1, col=1)
    return styled(figure, 420).update_layout(margin_t=70, legend_y=1.22)


def _before(column: str) -> str:
    """The figure with the untrained model's value of `column`."""
    return column.replace(VALUE, "heldout/bits_per_byte_before")


def _domain(column: str) -> str:
    return column.removeprefix(VALUE).strip("/") or "all"
