"""Draws `dvc.yaml` as `docs/graph.svg`: `python -m docs.graph`.

One lane per section of the file, whose banners (`# ──── Title ────`) name the lanes. A stage is to the right of the
stages of its lane that it needs. An arrow that follows from others is left out.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "graph.svg"
BANNER = re.compile(r"^  # ─+ (.+?) ─+$|^  ([a-z_]+):$", re.MULTILINE)
WIDTH, HEIGHT, ACROSS, DOWN, LEFT, GAP = 118, 28, 152, 38, 196, 34
"""Pixels: of a box; from one box to the next; of the titles' column; between the boxes of two lanes."""
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
    fed = {need for name, stage in stages.items() for need in stage.needs if column[name] == column[need] + 1}
    for columns in lanes.values():
        for names in columns.values():
            names.sort(key=lambda name: name not in fed)  # the others' arrows pass below the boxes to the right
    tops = [0]
    for columns in lanes.values():
        tops.append(tops[-1] + DOWN * max(map(len, columns.values())) - (DOWN - HEIGHT) + GAP)
    place = {
        name: (LEFT + number * ACROSS, top + GAP // 2 + row * DOWN)
        for top, columns in zip(tops, lanes.values(), strict=False)
        for number, names in columns.items() for row, name in enumerate(names)
    }  # fmt: skip
    width = LEFT + max(column.values()) * ACROSS + WIDTH + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tops[-1]}" width="{width}" height="{tops[-1]}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#64748b"/></marker></defs>',
        f'<rect width="{width}" height="{tops[-1]}" fill="#ffffff"/>',
    ]
    for (top, bottom), title, colour in zip(pairwise(tops), lanes, COLOURS, strict=True):
        box = f'<rect x="4" y="{top + 2}" width="{width - 8}" height="{bottom - top - 4}" rx="8" fill="{colour}"/>'
        parts.append(box + _title(title, top))
    bends = Counter[int]()
    for name, stage in stages.items():
        for other in sorted(stage.needs):
            if stages[other].lane == stage.lane:
                parts.append(_path(_curve(place[other], place[name])))
            else:
                parts.append(_path(_steps(place[other], place[name], 5 * bends[column[name]])))
                bends[column[name]] += 1
    for name, (x, y) in place.items():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#ffffff" stroke="#64748b"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 18}" text-anchor="middle" fill="#0f172a">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(title: str, top: int) -> str:
    """A lane's title, what follows its colon in small lines below."""
    head, _, rest = title.partition(": ")
    lines = [(line, 'font-size="12" font-weight="600"') for line in textwrap.wrap(head, 18)]
    lines += [(line, 'font-size="10"') for line in textwrap.wrap(rest, 24)]
    return "".join(
        f'<text x="14" y="{top + 26 + 14 * number}" fill="#334155" {style}>{escape(line)}</text>'
        for number, (line, style) in enumerate(lines)
    )


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Within a lane: from the right side of a box to the left side of another."""
    (x, y), (to_x, to_y) = (start[0] + WIDTH, start[1] + HEIGHT // 2), (end[0], end[1] + HEIGHT // 2)
    bend = (to_x - x) / 2
    return f"M{x} {y}C{x + bend:g} {y} {to_x - bend:g} {to_y} {to_x} {to_y}"


def _steps(start: tuple[int, int], end: tuple[int, int], aside: int) -> str:
    """From lane to lane: along the lane's edge, then between two columns of boxes, so that no box is crossed."""
    down = end[1] > start[1]
    x, y = start[0] + WIDTH // 2 + aside, start[1] + (HEIGHT if down else 0)
    along = y + (6 + aside // 2) * (1 if down else -1)
    return f"M{x} {y}V{along}H{end[0] - 11 - aside}V{end[1] + HEIGHT // 2}H{end[0]}"


def _path(line: str) -> str:
    return f'<path d="{line}" fill="none" stroke="#64748b" stroke-width="1.2" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw(read((ROOT / "dvc.yaml").read_text())))
