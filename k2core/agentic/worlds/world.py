"""A world as typed data: tables, links between their records, and a policy that the tools obey.

A table is a domain (`k2core.agentic.domains.taxonomy`) of which a field may be a `link`: the key of a record of another
table, or of the same one. A line of the policy is a sentence of the system prompt and a rule: the tools refuse a call
for which everything in `when` holds. Each part of `when` is a path, a test and an operand
(`k2core.agentic.tools.policy`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from k2core.agentic.domains.taxonomy import Domain, Value
from k2core.recipe import FromList, Section, validate
from k2core.recipe.reading import read_yaml


class Rule(Section):
    """A line of the policy."""

    says: str = Field(max_length=110, description="a sentence that an agent can also say when it refuses")
    tools: list[str] = Field(description="names of the tools that obey it")
    when: list[FromList[tuple[str, Literal["in", "not_in", "above"], Value | list[Value]]]] = Field(min_length=1)


class World(Section):
    """Tables, links and a policy."""

    world: str
    category: str
    system: str
    me: str = Field(description="the table of those whom the agent talks to")
    heldout: bool = Field(False, description="only held-out tasks are about it")
    tables: dict[str, Domain]
    policy: list[Rule]

    def links(self, table: str) -> dict[str, str]:
        """The linked tables by field."""
        return {name: spec.link for name, spec in self.tables[table].fields.items() if spec.link}

    @model_validator(mode="after")
    def _whole(self) -> World:
        unknown = [
            target for table in self.tables for target in self.links(table).values() if target not in self.tables
        ]
        if unknown or self.me not in self.tables:
            raise ValueError(f"no table {', '.join(unknown) or self.me}; there are {', '.join(self.tables)}")
        return self


@cache
def worlds() -> dict[str, World]:
    """All worlds by name: every YAML file of this folder, in the order of their names.

    Raises:
        RecipeError: a file does not fit; the message names file and key.
    """
    loaded = {}
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        raw = read_yaml(path)
        for entity, table in raw["tables"].items():
            table |= {"entity": entity, "category": raw["category"], "domain": raw["world"], "system": raw["system"]}
        loaded[raw["world"]] = validate(World, raw, f"worlds/{path.name}")
    return loaded
