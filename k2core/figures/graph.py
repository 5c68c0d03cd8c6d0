"""A graph of stages as an SVG picture: the sources at the top, each stage below all that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean

WIDTH, HEIGHT, ACROSS, DOWN = 150, 34, 170, 58
"""Of a box, and from one to the next; pixels."""
STYLE = """\
.graph rect { fill: #eef3fe; stroke: #2f6fed } .graph path { fill: none; stroke: #8a8f98 }
.graph text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: #1c1f24 }
.graph text + text { font-size: 10px; fill: #5f6368 }
@media (prefers-color-scheme: dark) { .graph rect { fill: #1d2738; stroke: #6d9bf5 }
.graph text { fill: #e6e8eb } .graph text + text { fill: #a8adb5 } }"""


def drawn(upstream: Mapping[str, Sequence[str]], below: Mapping[str, str]) -> str:
    """The picture. Arrows that follow from others are left out.

    Args:
        upstream: stage → the stages that it reads from.
        below: stage → what stands below its name; a stage without has room there, `data-stage` says whose.
    """
    layers = _layers(upstream)
    places = _places(layers, upstream)
    width = ACROSS * max(map(len, layers)) if layers else ACROSS
    lines, boxes = [], []
    for stage, (x, y) in places.items():
        for above in _direct(stage, upstream):
            from_x, from_y = places[above][0], places[above][1] + HEIGHT
            bend = (y - from_y) / 2
            curve = f"M{from_x:g} {from_y:g}C{from_x:g} {from_y + bend:g} {x:g} {y - bend:g} {x:g} {y:g}"
            lines.append(f'<path d="{curve}"/>')
        boxes.append(
            f'<g data-stage="{escape(stage)}"><rect x="{x - WIDTH / 2:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" '
            f'rx="5"/><text x="{x:g}" y="{y + 14:g}">{escape(stage)}</text>'
            f'<text x="{x:g}" y="{y + 27:g}">{escape(below.get(stage, ""))}</text></g>'
        )
    height = DOWN * len(layers)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="the stages and what they read"><style>{STYLE}</style>'
        f"{''.join(lines)}{''.join(boxes)}</svg>\n"
    )


def _layers(upstream: Mapping[str, Sequence[str]]) -> list[list[str]]:
    depth: dict[str, int] = {}

    def of(stage: str) -> int:
        if stage not in depth:
            depth[stage] = 1 + max((of(above) for above in upstream[stage]), default=-1)
        return depth[stage]

    layers: list[list[str]] = [[] for _ in range(1 + max(map(of, upstream), default=-1))]
    for stage in upstream:
        layers[depth[stage]].append(stage)
    return layers


def _places(layers: Sequence[Sequence[str]], upstream: Mapping[str, Sequence[str]]) -> dict[str, tuple[float, float]]:
    """Stage → middle of its box's upper edge; each layer in the order of what it reads, so that few arrows cross."""
    width = ACROSS * max(map(len, layers), default=1)
    places: dict[str, tuple[float, float]] = {}
    for number, layer in enumerate(layers):
        wanted = {
            stage: fmean(places[above][0] for above in upstream[stage]) if upstream[stage] else 0.0 for stage in layer
        }
        for place, stage in enumerate(sorted(layer, key=lambda stage: (wanted[stage], stage))):
            places[stage] = (width * (place + 0.5) / len(layer), DOWN * number + (DOWN - HEIGHT) / 2)
    return places


def _direct(stage: str, upstream: Mapping[str, Sequence[str]]) -> list[str]:
    """The stages above it to which no other way leads."""
    indirect: set[str] = set()
    todo = [further for above in upstream[stage] for further in upstream[above]]
    while todo:
        if (above := todo.pop()) not in indirect:
            indirect.add(above)
            todo += upstream[above]
    return [above for above in upstream[stage] if above not in indirect]
