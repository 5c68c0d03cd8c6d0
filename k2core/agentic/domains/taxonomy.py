"""Domains as typed data, and the values their fields take. A new domain is a YAML file here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

from k2core import storage
from k2core.recipe import FromList, Section, validate
from k2core.recipe.reading import read_yaml
from k2core.storage import Split
from k2core.synthesis.values import Values

Value = str | int
HELDOUT_SHARE = 0.2


@dataclass(frozen=True)
class Draws:
    """What a task's values are drawn with: its random stream, their split, and where open ones come from."""

    random: Random
    split: Split
    values: Values = field(default_factory=Values)


class FieldSpec(Section):
    """A field of an entity: exactly one source of values, and how a user mentions it."""

    enum: list[str] | None = None
    open: Literal["person", "name", "phrase", "text", "code", "digits"] | None = Field(
        None, description="a value that no list holds: a draw of k2core.synthesis.values.Values"
    )
    integer: FromList[tuple[int, int]] | None = None
    time: FromList[tuple[int, int]] | None = None
    link: str | None = Field(None, description="the key of a record of this table (k2core.agentic.worlds)")
    phrase: str = Field("{}", description="how a sentence gives a value")
    aliases: list[str] = Field([], description="other names a parameter for it may have")
    optional: bool = Field(False, description="a tool that creates the entity need not ask for it")
    internal: bool = Field(False, description="changed by transitions alone")
    initial: Value | None = Field(None, description="its value in a new entity")

    def as_schema(self) -> dict[str, Any]:
        """As JSON Schema."""
        if self.enum:
            return {"type": "string", "enum": list(self.enum)}
        return {"type": "integer" if self.integer else "string"}

    def draw(self, draws: Draws, other_than: Value | None = None) -> Value:
        """A value of the split. The hash of a value decides its split; enumerations belong to both.

        Raises:
            ValueError: there is no such value.
        """
        if self.enum:
            return draws.random.choice([value for value in self.enum if value != other_than])
        for _ in range(500):
            value = self._any(draws)
            if value != other_than and split_of(value) == draws.split:
                return value
        raise ValueError(f"no {draws.split} value in {self.model_dump(exclude_defaults=True)}; give it more values")

    def _any(self, draws: Draws) -> Value:
        random = draws.random
        if self.open:
            return getattr(draws.values, self.open)(random)
        if self.integer:
            return random.randint(*self.integer)
        if self.time:
            return f"{random.randint(*self.time):02}:{random.randrange(60):02}"
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
    create_words: list[str] = Field([], description="verbs of a wish for a new entity")

    @property
    def details(self) -> dict[str, FieldSpec]:
        """The fields a user sets, without the key."""
        return {n: spec for n, spec in self.fields.items() if n != self.key and not spec.internal}

    def record(self, draws: Draws) -> tuple[str, dict[str, Value]]:
        """A random entity: its key and its other fields, links apart."""
        key = str(self.fields[self.key].draw(draws))
        return key, {n: spec.draw(draws) for n, spec in self.fields.items() if n != self.key and not spec.link}


def split_of(value: Value) -> Split:
    """The split a value belongs to, everywhere."""
    return storage.split_of(str(value), HELDOUT_SHARE)


@cache
def domains() -> dict[str, Domain]:
    """All domains by name: every YAML file of this folder, in the order of their names.

    Raises:
        RecipeError: a file does not fit; the message names file and key.
    """
    loaded = {}
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        domain = validate(Domain, read_yaml(path), f"domains/{path.name}")
        loaded[domain.domain] = domain
    return loaded
