"""The pages' templates, filled by jinja2 with everything escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k2core.chat.parser import parse_assistant

SHARED = ("style.css.jinja", "page.js.jinja", "marks.html.jinja")
"""The parts that pages include."""
CHARACTERS = 700
"""Characters left of a text that is shortened."""


def shown(reply: str) -> str:
    """A model's reply without control tokens, a call as its name and arguments; one that breaks the format as it is."""
    parsed = parse_assistant(reply)
    if parsed.errors:
        return reply
    return "\n".join(filter(None, [parsed.content, *(f"{call.name} {call.arguments}" for call in parsed.tool_calls)]))


def render(name: str, **values: Any) -> str:
    """Template `name` of this folder with `values`; a missing one is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["figure"] = lambda value: f"{value:,.4g}"
    environment.filters["number"] = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    environment.filters["shown"] = shown
    environment.filters["short"] = lambda text: text if len(text) <= CHARACTERS else text[:CHARACTERS] + " …"
    return environment.get_template(name).render(**values)
