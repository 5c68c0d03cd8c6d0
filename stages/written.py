"""A recipe as the text of `params.yaml`: every key that it has, with its field's description as a comment."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import yaml

from k2core.recipe import Section
from k2core.tracking.recipe import stamp

WIDTH = 120
COLUMN = 48
"""Comments go beside the lines that end before this column, and above the others."""


WORD = 24
"""Room for the last word of a line: PyYAML ends a line after the word that passes the width."""


class _Dumper(yaml.SafeDumper):
    """Writes a value in full wherever it occurs."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Entry(NamedTuple):
    """A key with its value in lines of YAML, and what is said of it."""

    lines: list[str]
    about: str = ""


def written(name: str, content: Mapping[str, Any], classes: Mapping[str, type[Section]]) -> str:
    """The recipe `name` as YAML text.

    Args:
        content: section → its values, as the recipe gives them.
        classes: section → the class that describes its keys; each section of `content` has one.
    """
    head = [
        f"# The recipe `{name}` in full, with what each key means; written by `make recipe NAME={name}`.",
        f"# A change here counts until a recipe is chosen again; one that is to stay belongs in recipes/{name}.yaml.",
        stamp(dict(content)),
    ]
    parts = [head]
    for key, value in content.items():
        cls = classes[key].for_value(value)
        parts.append([*_comment(_purpose(key, cls), 0), *_lines(key, value, cls, 0)])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _purpose(key: str, cls: type[Section]) -> str:
    """First paragraph of the docstring of the stage whose own section this is, else of the class."""
    module = sys.modules[cls.__module__]
    text = module.__doc__ if getattr(module, "SECTION", None) == key else cls.__doc__
    return " ".join((text or "").split("\n\n")[0].split())


def _lines(key: str, value: Any, kind: Any, indent: int) -> list[str]:
    """`key: value` from column `indent` on; `kind` is the value's annotation."""
    pad, section = " " * indent, _section_in(kind)
    if section is None or not value or not isinstance(value, dict | list):
        return (pad + _flow(key, value, WIDTH - indent)).replace("\n", f"\n{pad}").split("\n")
    if isinstance(value, dict) and (section is kind or type(None) in get_args(kind)):
        return [f"{pad}{key}:", *_fields(value, section, indent + 2)]
    named = value.items() if isinstance(value, dict) else ((None, item) for item in value)
    items = list(named)
    short = [_flow(name, item, 10 * WIDTH) for name, item in items]
    if all(len(line) + indent + 2 <= WIDTH for line in short):
        fields = [f"{name}: {field.description}" for name, field in section.model_fields.items()]
        about = [line for field in fields for line in _comment(field, indent + 2)]
        return [f"{pad}{key}:", *about, *(f"{pad}  {line}" for line in short)]
    lines = [f"{pad}{key}:"]
    for name, item in items:
        inner = _fields(item, section, indent + 4)
        lines += [f"{pad}  {name}:", *inner] if name is not None else _with_dash(inner, indent + 2)
    return lines


def _fields(value: Mapping[str, Any], section: type[Section], indent: int) -> list[str]:
    """The keys of a section, each with its description beside it or above it."""
    described = section.model_fields
    entries = [
        _Entry(_lines(key, item, described[key].annotation, indent), described[key].description or "")
        for key, item in value.items()
    ]
    column = 2 + max((len(entry.lines[0]) for entry in entries if len(entry.lines[0]) < COLUMN), default=0)
    lines: list[str] = []
    for (first, *rest), about in entries:
        beside = f"{first:<{column}}# {about}" if about else first
        lines += [beside] if len(first) < COLUMN and len(beside) <= WIDTH else [*_comment(about, indent), first]
        lines += rest
    return lines


def _flow(key: str | None, value: Any, width: int) -> str:
    """`key: value`, or `- value` without a key, on one line if the width allows."""
    start = "- " if key is None else f"{key}: "
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=width - WORD
    )
    return start + "\n  ".join(line.strip() for line in text.removesuffix("...\n").strip().split("\n"))


def _with_dash(lines: list[str], indent: int) -> list[str]:
    """The lines of a mapping as an entry of a list."""
    first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
    return [*lines[:first], " " * indent + "- " + lines[first].lstrip(), *lines[first + 1 :]]


def _comment(text: str, indent: int) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _section_in(kind: Any) -> type[Section] | None:
    """The class of sections that an annotation names: `Rules` in `dict[str, Rules]`."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    return next(filter(None, map(_section_in, get_args(kind))), None)
