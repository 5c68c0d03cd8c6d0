"""The page's pictures: each a plotly figure made from `Results`, or None where the run has nothing to show for it."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from k2core.report.results import MODELS, PRETRAIN, Results, phases_of

CLEAR = "rgba(0,0,0,0)"
COLOURS = ("#2f6fed", "#e8710a", "#188038", "#a142f4", "#d93025", "#12858d", "#8a6d3b", "#5f6368")


def pretraining(results: Results) -> go.Figure | None:
    """Loss, learning rate and the largest attention logit over all tokens of all phases."""
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=[0.5, 0.2, 0.3], vertical_spacing=0.05)
    columns = (
        ("train/loss", "loss (nats per token)"),
        ("train/lr", "learning rate"),
        ("qk_clip/max_logit", "max logit"),
    )
    for colour, phase in zip(COLOURS, phases_of(results.figures), strict=False):
        curve = results.curves.get(f"{PRETRAIN}{phase}")
        if not curve:
            continue
        for row, (name, _) in enumerate(columns, 1):
            if name in curve:
                figure.add_scatter(
                    x=curve["train/tokens_seen"], y=curve[name], name=phase, legendgroup=phase, showlegend=row == 1,
                    line_color=colour, row=row, col=1,
                )  # fmt: skip
    for row, (_, title) in enumerate(columns, 1):
        figure.update_yaxes(title_text=title, row=row, col=1)
    figure.update_xaxes(title_text="tokens", row=3, col=1)
    return styled(figure, 620)


def curves_of(name: str, columns: tuple[str, ...]) -> Callable[[Results], go.Figure | None]:
    """A picture with one panel for each of `columns` of plot `name`."""

    def picture(results: Results) -> go.Figure | None:
        curve = results.curves.get(name)
        present = [column for column in columns if curve and column in curve]
        if not curve or not present:
            return None
        figure = make_subplots(rows=1, cols=len(present), subplot_titles=present, horizontal_spacing=0.06)
        for place, column in enumerate(present, 1):
            pairs = [(x, y) for x, y in zip(curve["step"], curve[column], strict=True) if y is not None]
            figure.add_scatter(
                x=[x for x, _ in pairs],
                y=[y for _, y in pairs],
                line_color=COLOURS[0],
                showlegend=False,
                row=1,
                col=place,
            )
        return styled(figure, 300)

    return picture


def before_after(stage: str, prefix: str = "") -> Callable[[Results], go.Figure | None]:
    """Figures of `stage` that come as a pair `…_before`, `…_after`, side by side."""

    def picture(results: Results) -> go.Figure | None:
        figures = results.figures.get(stage, {})
        names = [
            key.removesuffix("_before") for key in figures
            if key.endswith("_before") and key.startswith(prefix) and key.removesuffix("_before") + "_after" in figures
        ]  # fmt: skip
        if not names:
            return None
        figure = go.Figure()
        for colour, when in zip(COLOURS[-1:] + COLOURS[:1], ("before", "after"), strict=True):
            figure.add_bar(name=when, x=names, y=[figures[f"{name}_{when}"] for name in names], marker_color=colour)
        figure.update_layout(barmode="group")
        return styled(figure, 340)

    return picture


def three_models(results: Results) -> go.Figure:
    """Every rate of the scorecard with its 95% interval, base, SFT and RL side by side."""
    shown = [
        name for name, score in results.scorecards[MODELS[-1]].items()
        if "low" in score and name.startswith(("tool_calls/", "tasks/pass_rate"))
    ]  # fmt: skip
    figure = go.Figure()
    for colour, model in zip((COLOURS[-1], COLOURS[0], COLOURS[2]), MODELS, strict=True):
        scores = [results.scorecards[model][name] for name in shown]
        figure.add_bar(
            name=model, x=shown, y=[score["value"] for score in scores], marker_color=colour,
            error_y={
                "type": "data", "array": [score["high"] - score["value"] for score in scores],
                "arrayminus": [score["value"] - score["low"] for score in scores], "thickness": 1,
            },
        )  # fmt: skip
    figure.update_layout(barmode="group", yaxis_range=[0, 1.05])
    return styled(figure, 420)


def as_html(figure: go.Figure, name: str) -> str:
    """The figure as a div with a fixed id (plotly's own is random, and equal runs must give equal bytes)."""
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"picture-{name}",
        config={"displaylogo": False, "responsive": True},
    )


def styled(figure: go.Figure, height: int = 380) -> go.Figure:
    """The page's look, on `figure` itself."""
    figure.update_layout(
        template="plotly_white", paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, height=height,
        modebar={"bgcolor": CLEAR, "color": "#8a8f98"}, margin={"l": 60, "r": 20, "t": 30, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13}, legend={"orientation": "h", "y": 1.08},
    )  # fmt: skip
    return figure
