"""Pictures of the corpus: the funnel, quality by domain and what the sampling rates do to it, how the scores agree."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from k2core.report.corpus import GRADES, Corpus, by_domain, funnel_table
from k2core.report.pictures import COLOURS, styled
from k2core.report.results import Results

BINS = 20
"""Bins of the quality score, over [0, 1]."""
FEWEST = 3
"""Fewest documents that a correlation needs."""


def funnel(results: Results) -> go.Figure:
    """Documents and characters left after each rule of `curate`, and the documents that it removed."""
    steps = funnel_table(results.funnel)
    panels = {
        "documents left": ([step["documents"] for step in steps], ",d", COLOURS[0]),
        "million characters left": ([step["characters"] / 1e6 for step in steps], ",.2f", COLOURS[5]),
        "documents removed": ([step["removed"]["documents"] for step in steps], ",d", COLOURS[4]),
    }
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=list(panels),
        column_widths=[0.36, 0.36, 0.28],
    )  # fmt: skip
    for place, (values, form, colour) in enumerate(panels.values(), 1):
        figure.add_bar(
            x=values, y=[step["step"] for step in steps], orientation="h", marker_color=colour, showlegend=False,
            texttemplate=f"%{{x:{form}}}", textposition="auto", insidetextanchor="start", cliponaxis=False,
            row=1, col=place,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    return styled(figure, 110 + 24 * len(steps)).update_layout(bargap=0.15, margin_t=60, margin_l=190)


def histograms(corpus: Corpus) -> go.Figure:
    """Documents by quality score, one panel per domain; with sampling rates, also how many an epoch should show."""
    domains = by_domain(corpus.documents)
    figure = make_subplots(rows=1, cols=len(domains), subplot_titles=sorted(domains), horizontal_spacing=0.05)
    centres = [(place + 0.5) / BINS for place in range(BINS)]
    for place, (_, rows) in enumerate(sorted(domains.items()), 1):
        counts, expected = [0.0] * BINS, [0.0] * BINS
        for row in rows:
            at = min(BINS - 1, int(row["quality"] * BINS))
            counts[at] += 1
            expected[at] += row.get("rate", 1.0)
        shown = [("curated", counts, COLOURS[-1])]
        if "rate" in rows[0]:
            shown.append(("in an epoch, by their rates", expected, COLOURS[0]))
        for name, values, colour in shown:
            figure.add_bar(
                x=centres, y=values, name=name, legendgroup=name, showlegend=place == 1 and len(shown) > 1,
                marker_color=colour, width=1 / BINS, row=1, col=place,
            )  # fmt: skip
    figure.update_xaxes(title_text="quality", range=[0, 1])
    figure.update_yaxes(title_text="documents", row=1, col=1)
    return styled(figure, 320).update_layout(barmode="overlay", margin_t=60, legend_y=1.25)


def agreement(corpus: Corpus) -> go.Figure | None:
    """Spearman's rank correlation of the parts of the quality score, one panel per domain; None without grades."""
    graded = {
        domain: [grades for row in rows if (grades := corpus.grades.get(row["id"]))]
        for domain, rows in sorted(by_domain(corpus.documents).items())
    }
    graded = {domain: rows for domain, rows in graded.items() if len(rows) >= FEWEST}
    if not graded:
        return None
    titles = [f"{domain} ({len(rows):,})" for domain, rows in graded.items()]
    figure = make_subplots(rows=1, cols=len(graded), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.02)
    for place, rows in enumerate(graded.values(), 1):
        figure.add_heatmap(
            x=GRADES, y=GRADES, z=correlations(rows), texttemplate="%{z:.2f}", coloraxis="coloraxis", row=1, col=place
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(coloraxis={"colorscale": "RdBu", "cmin": -1, "cmax": 1})
    return styled(figure, 340).update_layout(margin_t=50, margin_l=80, margin_b=70)


def correlations(rows: list[dict[str, Any]]) -> list[list[float | None]]:
    """Spearman's rank correlation of each two of `GRADES` over the rows that have both.

    None for fewer than `FEWEST` such rows, or where one of the two is the same in all of them.
    """
    import pandas

    table = pandas.DataFrame([{name: row[name] for name in GRADES} for row in rows], dtype=float)
    found = table.corr(method="spearman", min_periods=FEWEST).round(4)
    return [[None if value != value else value for value in line] for line in found.to_numpy().tolist()]
