"""The map of tools: what is alike is near, equal tools give equal places, and real tools stand apart from made ones."""

from __future__ import annotations

from math import dist
from typing import Any

from k2core.report.tool_map import Placed, placed, sentence, tool_map

WORDS = {
    "weather": ("rain", "snow", "wind", "fog", "storm", "sunshine"),
    "banking": ("account", "loan", "payment", "deposit", "credit card", "interest rate"),
}


def tools() -> list[dict[str, Any]]:
    """Of two categories, two of each real."""
    return [
        {
            "name": f"get_{word.replace(' ', '_')}", "description": f"Get the {category} data about {word}.",
            "category": category, "origin": "mcp:served" if number < 2 else "evolved",
        }
        for category, words in WORDS.items()
        for number, word in enumerate(words)
    ]  # fmt: skip


def test_what_is_alike_is_near_and_equal_tools_give_equal_places() -> None:
    found = placed(tools())
    assert found == placed(tools()) and len(found) == 12
    nearest = {
        tool.name: min((dist((tool.x, tool.y), (o.x, o.y)), o.category) for o in found if o is not tool)[1]
        for tool in found
    }
    assert sum(nearest[tool.name] == tool.category for tool in found) >= 10
    assert all((tool.likeness is not None) == (tool.kind == "real") for tool in found)
    assert all(0.2 < tool.likeness < 1 for tool in found if tool.likeness is not None)
    assert placed(tools()[:5]) == [] and tool_map([]) is None


def test_the_picture_has_each_tool_once_in_the_panel_of_its_kind() -> None:
    made = [
        Placed(f"t{n}", "ab"[n % 2], "real" if n < 3 else "synthetic", n, -n, 0.5 if n < 3 else None) for n in range(9)
    ]
    figure = tool_map(made)
    assert figure is not None
    shown = {(trace.xaxis, name) for trace in figure.data for name in trace.text}
    assert shown == {("x" if n < 3 else "x2", f"t{n}") for n in range(9)}
    assert figure.layout.xaxis2.matches == "x" and figure.layout.yaxis2.matches == "y", "one map in both panels"
    said = sentence(made)
    assert "give 3 of the tools; 6 are synthetic" in said and "cosine of 0.50" in said
    assert "cosine" not in sentence([tool for tool in made if tool.kind == "synthetic"])
