"""The tools as a map: beside real ones, what the synthetic ones cover (K2 §3.1, figure 9).

Names and descriptions become sentence embeddings, and t-SNE places them on a plane: near is alike, distances between
groups say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import fmean, median
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from k2core.corpus.documents import sample
from k2core.report.pictures import COLOURS, styled

MOST = 800
"""Tools that are placed, drawn by hash."""
FEWEST = 10
"""Fewest tools that a map needs."""
PERPLEXITY = 20
"""Neighbours of a point that t-SNE looks at, about."""
LABELLED = 4
"""Fewest tools of a category whose name is written on the map."""
REAL = ("mcp:", "declared:")
"""How the origin of a tool begins that nobody here made up."""
KINDS = ("real", "synthetic")


@dataclass(frozen=True)
class Placed:
    """A tool on the map. `likeness` is the cosine to the synthetic tool that is most alike, of a real tool."""

    name: str
    category: str
    kind: str
    x: float
    y: float
    likeness: float | None


def placed(tools: Sequence[Mapping[str, Any]]) -> list[Placed]:
    """The tools of `tools.jsonl` on the map; none if they are too few.

    Equal tools give equal places.
    """
    chosen = sample(tools, MOST, lambda row: str(row["name"]))
    if len(chosen) < FEWEST:
        return []
    from sklearn.manifold import TSNE

    from k2core.synthesis.fidelity.embedding import embed

    vectors = embed([f"{row['name'].replace('_', ' ')}: {row['description']}" for row in chosen]).double().numpy()
    perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
    places = TSNE(init="pca", metric="cosine", perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(vectors)
    kinds = ["real" if str(row["origin"]).startswith(REAL) else "synthetic" for row in chosen]
    made = vectors[[kind == "synthetic" for kind in kinds]]
    return [
        Placed(
            row["name"], row["category"], kind, round(float(x), 1), round(float(y), 1),
            round(float((made @ vector).max()), 3) if kind == "real" and len(made) else None,
        )
        for row, kind, vector, (x, y) in zip(chosen, kinds, vectors, places, strict=True)
    ]  # fmt: skip


def sentence(tools: Sequence[Placed]) -> str:
    """How many tools are real, and how near the synthetic ones come to them."""
    counts = [sum(tool.kind == kind for tool in tools) for kind in KINDS]
    near = [tool.likeness for tool in tools if tool.likeness is not None]
    said = f"Real servers or declarations give {counts[0]:,} of the tools; {counts[1]:,} are synthetic."
    return said + (
        f" A real tool's nearest synthetic one has a cosine of {fmean(near):.2f}, on average." if near else ""
    )


def tool_map(tools: Sequence[Placed]) -> go.Figure | None:
    """Real tools, synthetic tools: a panel each, on one map, coloured by category; None without tools."""
    if not tools:
        return None
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=KINDS)
    colours = dict(zip(sorted({tool.category for tool in tools}), cycle(COLOURS), strict=False))
    for place, kind in enumerate(KINDS, 1):
        for category, colour in colours.items():
            own = [tool for tool in tools if (tool.kind, tool.category) == (kind, category)]
            if not own:
                continue
            figure.add_scatter(
                x=[tool.x for tool in own], y=[tool.y for tool in own], text=[tool.name for tool in own], name=category,
                mode="markers", marker={"color": colour, "size": 6, "opacity": 0.7}, showlegend=False,
                hovertemplate="%{text}<extra>" + category + "</extra>", row=1, col=place,
            )  # fmt: skip
            if len(own) >= LABELLED or kind == "real":
                figure.add_annotation(
                    x=median(tool.x for tool in own), y=median(tool.y for tool in own), text=f"<b>{category}</b>",
                    showarrow=False, font_size=11, row=1, col=place,
                )  # fmt: skip
    figure.update_xaxes(showticklabels=False, zeroline=False, matches="x")
    figure.update_yaxes(showticklabels=False, zeroline=False)
    return styled(figure, 460).update_layout(margin_t=50, margin_l=20)
