"""Texts, numbers and lists as a line shows them."""

from __future__ import annotations

from collections.abc import Sequence

LINE, MOST, NEAREST = 90, 8, 3
"""Most characters of a text, members of a list, and names like an unknown one, that a line shows."""


def first_line(text: str) -> str:
    """The text's first line in quotes, shortened."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f'"{line[:LINE].rstrip()}…"' if len(line) > LINE or line != text.strip() else f'"{line}"'


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - MOST
    return ", ".join(names[:MOST]) + (f" and {more:,} more" if more > 0 else "")


def times(count: float) -> str:
    """How often, as a number and a word."""
    return f"{count:.3g} {'time' if count == 1 else 'times'}"
