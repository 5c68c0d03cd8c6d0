"""Draws `dvc.yaml` as `docs/graph.svg`: `python -m docs.graph`.

One lane per section of the file, whose banners (`# ──── Title ────`) name the lanes. A stage stands to the right of the
stages of its lane that it needs. An arrow that follows from others is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "graph.svg"
BANNER = re.compile(r"^  # ─+ (.+?) ─+$|^  ([a-z_]+):$", re.MULTILINE)
WIDTH, HEIGHT, ACROSS, DOWN, TITLE, LEFT = 116, 28, 150, 38, 30, 16
"""Of a box; from one box to the next; of a lane's title; of the margin. Pixels."""
COLOURS = ("#dbeafe", "#dcfce7", "#fef3c7", "#fee2e2", "#ede9fe")


@dataclass(frozen=True)
class Stage:
    """A node: its lane's title, and the stages whose outputs it reads."""

    lane: str
    needs: frozenset[str]


def read(graph: str) -> dict[str, Stage]:
    """Stage → what is drawn of it, from the text of `dvc.yaml`; each item of a `foreach` is a stage."""
    bodies, lanes, lane = dict(_items(yaml.safe_load(graph)["stages"])), {}, ""
    for title, name in BANNER.findall(graph):
        lane = title or lane
        lanes[name] = lane
    made = {path: name for name, body in bodies.items() for path in _paths(body, "outs") + _paths(body, "metrics")}
    needs = {
        name: {made[path] for dep in _paths(body, "deps") for path in made if _joined(dep, path)} - {name}
        for name, body in bodies.items()
    }
    behind: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        if name not in behind:
            behind[name] = set().union(*({other} | reached(other) for other in needs[name]), set())
        return behind[name]

    return {
        name: Stage(
            lanes[name.partition("@")[0]],
            frozenset(other for other in needs[name] if not any(other in reached(one) for one in needs[name])),
        )
        for name in bodies
    }


def _items(stages: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, stage in stages.items():
        for key in stage.get("foreach", [None]):
            item = stage["foreach"][key] if isinstance(stage.get("foreach"), dict) else key
            words = {"${key}": key, "${item}": item, "${item.init}": item["init"] if isinstance(item, dict) else ""}
            text = yaml.safe_dump(stage.get("do", stage))
            for word, value in words.items():
                text = text.replace(word, str(value))
            found.append((name if key is None else f"{name}@{key}", yaml.safe_load(text)))
    return found


def _paths(body: dict[str, Any], key: str) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in body.get(key, [])]


def _joined(one: str, other: str) -> bool:
    """Whether one of two paths lies in the other, or they are equal."""
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)


def draw(stages: dict[str, Stage]) -> str:
    """The picture as SVG, equal for equal graphs."""
    column: dict[str, int] = {}

    def column_of(name: str) -> int:
        if name not in column:
            own = [other for other in stages[name].needs if stages[other].lane == stages[name].lane]
            column[name] = max((column_of(other) + 1 for other in own), default=0)
        return column[name]

    lanes: dict[str, dict[int, list[str]]] = {}
    for name, stage in stages.items():
        lanes.setdefault(stage.lane, {}).setdefault(column_of(name), []).append(name)
    tops = [0]
    for columns in lanes.values():
        tops.append(tops[-1] + TITLE + DOWN * max(map(len, columns.values())) + 14)
    place = {
        name: (LEFT + number * ACROSS, top + TITLE + row * DOWN)
        for top, columns in zip(tops, lanes.values(), strict=False)
        for number, names in columns.items() for row, name in enumerate(names)
    }  # fmt: skip
    width = 2 * LEFT + max(column.values()) * ACROSS + WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tops[-1]}" width="{width}" height="{tops[-1]}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>',
        f'<rect width="{width}" height="{tops[-1]}" fill="#ffffff"/>',
    ]
    for (top, bottom), title, colour in zip(pairwise(tops), lanes, COLOURS, strict=True):
        parts.append(
            f'<rect x="4" y="{top + 4}" width="{width - 8}" height="{bottom - top - 8}" rx="8" fill="{colour}"/>'
            f'<text x="{LEFT}" y="{top + 21}" fill="#334155" font-weight="600">{escape(title)}</text>'
        )
    for name, stage in stages.items():
        parts += [_arrow(place[other], place[name]) for other in sorted(stage.needs)]
    for name, (x, y) in place.items():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff" stroke="#64748b"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 18}" text-anchor="middle" fill="#0f172a">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the side of the box at `start` that looks towards the box at `end`."""
    (x, y), (to_x, to_y) = start, end
    if to_x > x:  # to the right: from side to side
        a, b = (x + WIDTH, y + HEIGHT / 2), (to_x, to_y + HEIGHT / 2)
        bend = (b[0] - a[0]) / 2
        c, d = (a[0] + bend, a[1]), (b[0] - bend, b[1])
    else:  # up or down
        down = 1 if to_y > y else -1
        a = (x + WIDTH / 2, y + HEIGHT * (down > 0))
        b = (to_x + WIDTH / 2, to_y + HEIGHT * (down < 0))
        bend = (b[1] - a[1]) / 2
        c, d = (a[0], a[1] + bend), (b[0], b[1] - bend)
    points = " ".join(f"{px:g} {py:g}" for px, py in (c, d, b))
    return f'<path d="M{a[0]:g} {a[1]:g}C{points}" fill="none" stroke="#64748b" stroke-width="1.2" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(read((ROOT / "dvc.yaml").read_text())))
