"""Parameters of the catalogue's tools: each with its JSON Schema and a draw of its value in a right call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from k2core.agentic.catalogue.entries import Field

Record = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A table with a record to call on, for the gate."""

    table: dict[str, Record]
    key: str
    random: Random

    @property
    def record(self) -> Record:
        return self.table[self.key]


@dataclass(frozen=True)
class Parameter:
    """Its JSON Schema, a draw of its value in a right call, and whether it must be given."""

    schema: dict[str, Any]
    draw: Callable[[World], Any]
    required: bool = True


def new_value(f: Field, required: bool = True) -> Parameter:
    """A value for a field, another than the record has."""

    def draw(world: World) -> Any:
        while (value := f.draw(world.random)) == world.record.get(f.name):
            pass
        return value

    return Parameter(f.schema, draw, required)


def held(f: Field, required: bool = True) -> Parameter:
    """The value that the record has."""
    return Parameter(f.schema, lambda w: w.record[f.name], required)


def limit() -> dict[str, Parameter]:
    return {"limit": whole("Most results to return", 20, 1, 100)}


def whole(text: str, value: int, least: int, most: int, required: bool = False) -> Parameter:
    schema = {"type": "integer", "minimum": least, "maximum": most, "description": text}
    return Parameter(schema, lambda w: value, required)


def flag(text: str) -> Parameter:
    return Parameter({"type": "boolean", "description": text}, lambda w: False, False)


def choice(values: list[str], text: str, required: bool = False) -> Parameter:
    schema = {"type": "string", "enum": values, "description": text}
    return Parameter(schema, lambda w: w.random.choice(values), required)


def array(items: dict[str, Any], text: str, draw: Callable[[World], Any], required: bool = True) -> Parameter:
    schema = {"type": "array", "items": items, "minItems": 1, "description": text}
    return Parameter(schema, draw, required)


def nested(text: str, parts: dict[str, Parameter]) -> Parameter:
    kind = object_schema(parts) | ({"description": text} if text else {})
    return Parameter(kind, lambda w: {n: part.draw(w) for n, part in parts.items()})


def object_schema(parameters: dict[str, Parameter]) -> dict[str, Any]:
    return {
        "type": "object", "properties": {n: p.schema for n, p in parameters.items()},
        "required": [n for n, p in parameters.items() if p.required], "additionalProperties": False,
    }  # fmt: skip
