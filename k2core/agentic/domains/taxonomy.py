"""Domains as typed data, and the values their fields take. A new domain is a YAML file here and a name in `FILES`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

from k2core import storage
from k2core.recipe import FromList, Section, validate
from k2core.storage import Split

Value = str | int
HELDOUT_SHARE = 0.2
FILES = (
    "calendar.yaml", "todo.yaml", "contacts.yaml", "notes.yaml", "orders.yaml", "inventory.yaml", "bookings.yaml",
    "accounts.yaml", "weather.yaml", "home.yaml",
)  # fmt: skip


class FieldSpec(Section):
    """A field of an entity: exactly one source of values, and how a user mentions it."""

    enum: list[str] | None = None
    choice: list[str] | None = None
    join: list[list[str]] | None = None
    integer: FromList[tuple[int, int]] | None = None
    time: FromList[tuple[int, int]] | None = None
    code: str | None = None
    digits: int | None = None
    phrase: str = Field("{}", description="how a value stands in a sentence")
    aliases: list[str] = Field([], description="other names a parameter for it may have")
    optional: bool = Field(False, description="a tool that creates the entity need not ask for it")
    internal: bool = Field(False, description="changed by transitions alone")
    initial: Value | None = Field(None, description="its value in a new entity")

    def as_schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        if self.enum:
            return {"type": "string", "enum": list(self.enum)}
        return {"type": "integer" if self.integer else "string"}

    def draw(self, random: Random, split: Split, other_than: Value | None = None) -> Value:
        """A value of `split`. The hash of a value decides its split; enumerations belong to both.

        Raises:
            ValueError: there is no such value.
        """
        if self.enum:
            return random.choice([value for value in self.enum if value != other_than])
        for _ in range(500):
            value = self._any(random)
            if value != other_than and split_of(value) == split:
                return value
        raise ValueError(f"no {split} value in {self.model_dump(exclude_defaults=True)}; give it more values")

    def _any(self, random: Random) -> Value:
        if self.choice:
            return random.choice(self.choice)
        if self.join:
            return " ".join(random.choice(words) for words in self.join)
        if self.integer:
            return random.randint(*self.integer)
        if self.time:
            return f"{random.randint(*self.time):02}:{random.choice((0, 15, 30, 45)):02}"
        if self.code:
            return f"{self.code}-{random.randint(100, 999)}"
        if self.digits:
            return "".join(random.choice("0123456789") for _ in range(self.digits))
        raise ValueError("a field without a source of values")


class Transition(Section):
    """An operation that sets a field to a fixed value."""

    verb: str
    phrase: str
    field: str
    value: str


class Adjustment(Section):
    """An operation that adds to a number; the result may not fall below zero."""

    verb: str
    phrase: str
    field: str
    sign: Literal[1, -1]
    parameter: str
    range: FromList[tuple[int, int]]


class Domain(Section):
    """An application domain: one kind of entity, kept in a table by its key."""

    category: str
    domain: str
    system: str
    entity: str
    plural: str
    key: str
    fields: dict[str, FieldSpec]
    transitions: list[Transition] = Field([])
    adjustments: list[Adjustment] = Field([])
    create_words: list[str]

    @property
    def details(self) -> dict[str, FieldSpec]:
        """The fields a user sets, without the key."""
        return {n: spec for n, spec in self.fields.items() if n != self.key and not spec.internal}

    def record(self, random: Random, split: Split) -> tuple[str, dict[str, Value]]:
        """A random entity: its key and its other fields."""
        key = str(self.fields[self.key].draw(random, split))
        return key, {n: spec.draw(random, split) for n, spec in self.fields.items() if n != self.key}


def split_of(value: Value) -> Split:
    """The split a value belongs to, everywhere."""
    return storage.split_of(str(value), HELDOUT_SHARE)


@cache
def domains() -> dict[str, Domain]:
    """All domains by name, in the order of `FILES`.

    Raises:
        RecipeError: a file does not fit; the message names file and key.
    """
    import yaml

    loaded = {}
    for file in FILES:
        content = yaml.safe_load((Path(__file__).parent / file).read_text(encoding="utf-8"))
        domain = validate(Domain, content, f"domains/{file}")
        loaded[domain.domain] = domain
    return loaded
