"""The page on which a person judges the fidelity gate: source, rewrite and verdict side by side, to be filtered."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from k2core.report import templates
from k2core.report.marks import compared
from k2core.synthesis.fidelity.gate import AT_MOST, GateLimits, within

TEMPLATE = "rewrites.html.jinja"
MOST = 300
"""Most verdicts on the page."""
CHARACTERS = 6000
"""Most characters of a text."""

Row = dict[str, Any]


def render(verdicts: Sequence[Row], gate: Mapping[str, GateLimits], common: frozenset[str]) -> str:
    """The page as HTML.

    Args:
        verdicts: rows of `data/rephrased/verdicts.parquet`.
        gate: limits by the name that a verdict's column `gate` has.
        common: words of the corpus that are not names.
    """
    shown = choose(verdicts, MOST)
    rows = []
    for row in shown:
        source, rewrite = compared(row["source_text"][:CHARACTERS], row["rewrite"][:CHARACTERS], common)
        cut = max(len(row["source_text"]), len(row["rewrite"])) > CHARACTERS
        scores = scores_of(row, gate[row["gate"]])
        rows.append({**row, "source": source, "marked": rewrite, "scores": scores, "cut": cut})
    return templates.render(
        TEMPLATE, rows=rows, total=len(verdicts), styles=_counts(shown, "style"), characters=CHARACTERS,
        reasons=_counts([row for row in shown if not row["accepted"]], "reason"),
        accepted=sum(row["accepted"] for row in shown),
    )  # fmt: skip


def choose(verdicts: Sequence[Row], most: int) -> list[Row]:
    """All of them, or `most`: of each style and reason in turn, so that rare ones are seen; in the order they came."""
    groups: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for place, row in enumerate(verdicts):
        groups[row["style"], row["reason"]].append(place)
    ranked = sorted((turn, place) for places in groups.values() for turn, place in enumerate(places))
    return [verdicts[place] for place in sorted(place for _, place in ranked[:most])]


def scores_of(row: Row, limits: GateLimits) -> list[dict[str, Any]]:
    """Every score of a verdict: `name`, `value`, its `limit` in words, and whether it `passed` (None: no limit)."""
    bounds = dict(limits)
    names = [name for name in bounds if name in row]
    names += [name for name, value in row.items() if isinstance(value, float) and name not in bounds]
    return [
        {
            "name": name,
            "value": row[name],
            "limit": _limit(name, bounds[name]) if name in bounds else "",
            "passed": within(row[name], name, limits) if name in bounds else None,
        }
        for name in names
    ]


def _limit(name: str, limit: Any) -> str:
    if isinstance(limit, tuple):
        return f"{limit[0]:g} to {limit[1]:g}"
    return f"{'≤' if name in AT_MOST else '≥'} {limit:g}"


def _counts(rows: Sequence[Row], column: str) -> list[tuple[str, int]]:
    return Counter(row[column] for row in rows).most_common()
