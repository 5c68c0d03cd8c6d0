"""The catalogue: domains by category, one YAML file per category and one line per field.

A domain is named by the plural of its entity:

    loans:
      loan: code
      amount: 500..90000 EUR | money lent
      guarantors?: list of person | people who pay if the borrower cannot
      states: requested, approve approved, reject rejected

The first line is the entity with the kind of its key. `states` is the state in which an entity begins, and the verbs
that lead to the others. Every other line is a field: `name: kind | what it is`. `name?` may be missing.

Kinds: values separated by commas (an enumeration); `1..9 unit` (integers) and `0.5..9.5 unit` (numbers); `yes/no`;
`date`, a day that can be moved, and `day`, one that cannot; `time`; a string (`STRINGS`); an object (`OBJECTS`);
`list of` any of the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from k2core.recipe import RecipeError, Section, validate
from k2core.recipe.reading import read_yaml
from k2core.synthesis.values import Values

Draw = Callable[[Random], Any]
_VALUES = Values()
STRINGS: dict[str, tuple[dict[str, Any], Draw]] = {
    "person": ({}, _VALUES.person),
    "name": ({}, _VALUES.name),
    "phrase": ({}, _VALUES.phrase),
    "text": ({}, _VALUES.text),
    "code": ({}, _VALUES.code),
    "phone": ({"pattern": "^[0-9]{6,8}$"}, _VALUES.digits),
    "email": ({"format": "email"}, lambda r: f"{_VALUES.made_up(r)}@{_VALUES.made_up(r)}.example"),
    "link": ({"format": "uri"}, lambda r: f"https://{_VALUES.made_up(r)}.example/{_VALUES.made_up(r)}"),
    "time": ({"pattern": "^[0-2][0-9]:[0-5][0-9]$"}, _VALUES.time),
    "date": ({"format": "date"}, lambda r: f"{r.randint(2024, 2028)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"),
    "day": ({"format": "date"}, lambda r: f"{r.randint(1950, 2024)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"),
}
OBJECTS = {
    "address": {
        "street": "phrase | street and number",
        "city": "name | city or town",
        "postcode": "phone | postcode, digits alone",
    },
    "contact": {"name": "person | full name", "phone": "phone | number to call", "email": "email | e-mail address"},
    "period": {"from": "date | first day", "until": "date | last day"},
    "position": {
        "latitude": "-85.0..85.0 degrees | north is positive",
        "longitude": "-180.0..180.0 degrees | east is positive",
    },
    "size": {
        "length": "1..900 cm | longest side",
        "width": "1..900 cm | shorter side",
        "height": "1..900 cm | from bottom to top",
    },
    "price": {"amount": "0.5..900.0 | how much", "currency": "EUR, USD, GBP, CHF | currency it is in"},
}
_RANGE = re.compile(r"(-?[\d.]+?)\.\.(-?[\d.]+)(?: (\S+))?")
KEY_KINDS = ("code", "name", "person", "phrase")


@dataclass(frozen=True)
class Field:
    """A field: what it is (`form`), its JSON Schema with a description, and a draw of its values.

    `form` is enum, integer, number, boolean, list, object or a key of STRINGS.
    """

    name: str
    form: str
    schema: dict[str, Any]
    draw: Draw
    optional: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Entry:
    """A domain of the catalogue. `steps` is verb → state; an entity begins in `start`."""

    category: str
    plural: str
    entity: str
    key: Field
    fields: dict[str, Field]
    start: str
    steps: dict[str, str]

    @property
    def states(self) -> list[str]:
        return list(dict.fromkeys([self.start, *self.steps.values()]))

    def record(self, random: Random, state: str) -> tuple[str, dict[str, Any]]:
        """A random entity with all its fields: key and values."""
        return self.key.draw(random), {n: f.draw(random) for n, f in self.fields.items()} | {"status": state}


class Category(Section):
    """A file of the catalogue."""

    category: str
    domains: dict[str, dict[str, str]]


@cache
def catalogue() -> list[Entry]:
    """The project's own domains."""
    return entries_in(Path(__file__).parent)


def entries_in(folder: Path) -> list[Entry]:
    """The domains of a folder's YAML files, by category and then in the order of the file.

    Raises:
        RecipeError: a file does not fit; the message names file and line.
    """
    entries: list[Entry] = []
    for path in sorted(folder.glob("*.yaml")):
        content = validate(Category, read_yaml(path), f"catalogue/{path.name}")
        for plural, lines in content.domains.items():
            try:
                entries.append(entry(content.category, plural, lines))
            except ValueError as error:
                raise RecipeError(f"catalogue/{path.name}: {plural}: {error}") from None
    return entries


def entry(category: str, plural: str, lines: Mapping[str, str]) -> Entry:
    """A domain from its lines.

    Raises:
        ValueError: a line that does not fit; says which.
    """
    (entity, kind), *rest = lines.items()
    if kind not in KEY_KINDS:
        raise ValueError(f"{entity}: the first line is the entity with one of {', '.join(KEY_KINDS)}")
    if plural != plural_of(entity):
        raise ValueError(f"the plural of {entity} is {plural_of(entity)}")
    if "states" not in lines:
        raise ValueError("states: missing, such as `open, close closed`")
    start, *steps = lines["states"].split(", ")
    verbs = dict(step.split(" ", 1) for step in steps)
    what = (
        "identifier" if kind == "code" else "name" if kind == "name" else "full name" if kind == "person" else "title"
    )
    key_name = f"{entity}_{'id' if kind == 'code' else 'title' if kind == 'phrase' else 'name'}"
    key = field(key_name, f"{kind} | {what} of the {entity.replace('_', ' ')}")
    fields = [field(name, line) for name, line in rest if name != "states"]
    for listed in fields:
        if listed.form == "list":
            singular(listed.name)
    return Entry(category, plural, entity, key, {f.name: f for f in fields}, start, verbs)


def field(name: str, line: str) -> Field:
    """A field from its line.

    Raises:
        ValueError: no such kind, or no description of two words.
    """
    kind, bar, text = line.partition(" | ")
    if not bar or " " not in text:
        raise ValueError(f"{name}: write `kind | what it is`, in two words or more")
    form, schema, draw, unit = _kind(name, kind)
    said = text[0].upper() + text[1:] + (f", in {unit}" if unit else "")
    return Field(name.rstrip("?"), form, {**schema, "description": said}, draw, name.endswith("?"), unit)


def _kind(name: str, kind: str) -> tuple[str, dict[str, Any], Draw, str]:
    if kind.startswith("list of "):
        _, item, draw, _ = _kind(name, kind.removeprefix("list of "))
        return "list", {"type": "array", "items": item}, lambda r: [draw(r) for _ in range(r.randint(1, 3))], ""
    if kind in STRINGS:
        extra, draw = STRINGS[kind]
        return kind, {"type": "string", **extra}, draw, ""
    if kind in OBJECTS:
        return "object", *_object(kind), ""
    if kind == "yes/no":
        return "boolean", {"type": "boolean"}, lambda r: r.random() < 0.5, ""
    if found := _RANGE.fullmatch(kind):
        return _number(*found.groups())
    if ", " in kind:
        values = kind.split(", ")
        return "enum", {"type": "string", "enum": values}, lambda r: r.choice(values), ""
    raise ValueError(f"{name}: no kind {kind!r}")


def _number(low: str, high: str, unit: str | None) -> tuple[str, dict[str, Any], Draw, str]:
    if "." in low + high:
        bottom, top = float(low), float(high)
        schema = {"type": "number", "minimum": bottom, "maximum": top}
        return "number", schema, lambda r: round(r.uniform(bottom, top), 1), unit or ""
    least, most = int(low), int(high)
    return (
        "integer",
        {"type": "integer", "minimum": least, "maximum": most},
        lambda r: r.randint(least, most),
        unit or "",
    )


def _object(kind: str) -> tuple[dict[str, Any], Draw]:
    parts = {name: field(name, line) for name, line in OBJECTS[kind].items()}
    schema = {"type": "object", "properties": {n: p.schema for n, p in parts.items()}, "required": list(parts)}

    def draw(random: Random) -> dict[str, Any]:
        values = [part.draw(random) for part in parts.values()]
        return dict(zip(parts, sorted(values) if kind == "period" else values, strict=True))

    return schema, draw


def singular(name: str) -> str:
    """Of a plural in English.

    Raises:
        ValueError: it does not end in s.
    """
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("s", "")):
        if name.endswith(ending):
            return name.removesuffix(ending) + instead
    raise ValueError(f"{name}: the name of a list must end in s")


def plural_of(name: str) -> str:
    """Of a noun in English."""
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "sh", "ch", "x")) else "s")
