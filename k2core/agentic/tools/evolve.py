"""Synthetic tools: category → application domain → tool, then seeded evolution behind a validity gate (K2 §3.1).

Each domain starts with its plain operations. A child is a tool of the population with one mutation; it survives if its
schema is valid, no tool has its name or does exactly the same with the same parameters, and a call that a task
would make can be carried out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from k2core.agentic.domains.taxonomy import Adjustment, Domain, Draws, FieldSpec, Transition, split_of
from k2core.agentic.tools.goals import draw_goal, draw_state
from k2core.agentic.tools.simulator import Simulator
from k2core.agentic.tools.specs import ToolSpec
from k2core.agentic.worlds.world import World
from k2core.chat.parser import ToolCall, schema_fault

SYNONYMS = {
    "create": ("add", "create", "new", "register"),
    "get": ("get", "show", "look_up", "read"),
    "update": ("update", "set", "change", "edit"),
    "delete": ("delete", "remove", "drop"),
    "find": ("find", "list", "search"),
}
MAX_TRIES = 60
MAX_NAME = 32


def evolve(domain: Domain, count: int, seed: int) -> tuple[list[ToolSpec], Counter[str]]:
    """The plain tools of `domain` and evolved ones up to `count`; and how often the gate refused, by reason."""
    random = Random(f"{seed}/evolve/{domain.domain}")
    tools = list(plain_tools(domain))
    refused: Counter[str] = Counter()
    for _ in range(MAX_TRIES * count):
        if len(tools) >= count:
            break
        parent = random.choice(tools)
        child = random.choice(MUTATIONS)(domain, parent, random)
        if child is None:
            refused["not applicable"] += 1
        elif reason := refusal(domain, child, tools):
            refused[reason] += 1
        else:
            tools.append(child)
    return tools, refused


def plain_tools(domain: Domain) -> Iterator[ToolSpec]:
    """The operations every keyed table has, the domain's transitions and its adjustments."""
    key, entity = domain.key, domain.entity
    stated = [name for name, spec in domain.details.items() if not spec.optional]
    first_enum = next(name for name, spec in domain.fields.items() if spec.enum and name != key)
    others = [name for name in domain.fields if name != key]
    yield _tool(domain, "create", f"add_{entity}", [key, *stated], [])
    yield _tool(domain, "get", f"get_{entity}", [key], [], returns=others)
    yield _tool(domain, "update", f"update_{entity}", [key], list(domain.details))
    yield _tool(domain, "delete", f"delete_{entity}", [key], [])
    yield _tool(domain, "find", f"find_{domain.plural}_by_{first_enum}", [first_enum], [])
    for step in domain.transitions:
        yield _tool(domain, "update", f"{step.verb}_{entity}", [key], [], step=step)
    for change in domain.adjustments:
        yield _tool(domain, "adjust", f"{change.verb}_{entity}", [key], [], step=change)


def world_tools(world: World) -> list[ToolSpec]:
    """The tools of a world, with the rules they obey: read, find by each link, set a field, take a step, adjust.

    Raises:
        ValueError: a rule is for a tool that the world does not have.
    """
    links = {table: world.links(table) for table in world.tables}
    made: list[ToolSpec] = []
    for entity, table in world.tables.items():
        key = table.key
        made.append(_tool(table, "get", f"get_{entity}", [key], [], returns=[n for n in table.fields if n != key]))
        made += [_tool(table, "find", f"find_{table.plural}_by_{name}", [name], []) for name in links[entity]]
        own = [name for name, spec in table.details.items() if not spec.link]
        made += [_tool(table, "update", f"set_{entity}_{name}", [key, name], []) for name in own]
        made += [_tool(table, "update", f"{step.verb}_{entity}", [key], [], step=step) for step in table.transitions]
        made += [_tool(table, "adjust", f"{step.verb}_{entity}", [key], [], step=step) for step in table.adjustments]
    if unknown := {name for rule in world.policy for name in rule.tools} - {tool.name for tool in made}:
        raise ValueError(f"worlds: {world.world}: a rule is for {', '.join(sorted(unknown))}, which is no tool of it")
    rules = {
        tool.name: [rule.model_dump(include={"says", "when"}) for rule in world.policy if tool.name in rule.tools]
        for tool in made
    }
    ruled = {name: {"rules": own, "links": links} if own else {} for name, own in rules.items()}
    return [replace(t, origin="world", operation=t.semantics | ruled[t.name]) for t in made]


def refusal(domain: Domain, tool: ToolSpec, population: list[ToolSpec]) -> str | None:
    """Why `tool` may not survive, or None."""
    if schema_fault(tool.parameters):
        return "schema"
    if len(tool.name) > MAX_NAME:
        return "name too long"
    if any(tool.name == other.name for other in population):
        return "name taken"
    same = [_signature(other) for other in population]
    if same.count(_signature(tool)) >= 2:  # a renamed twin is variety, a third is not
        return "duplicate"
    return None if executable(domain, tool) else "not executable"


def executable(domain: Domain, tool: ToolSpec) -> bool:
    """Whether the call of a random goal succeeds in a random world."""
    draws = Draws(Random(f"gate/{tool.name}"), "train")
    state = draw_state(domain, draws)
    goal = draw_goal(domain, tool, state, draws)
    call = ToolCall(f"functions.{tool.name}:0", tool.name, json.dumps(goal.arguments))
    outcome = Simulator({tool.name: tool}, state).execute(call)
    return outcome.valid and "error" not in outcome.result


def _signature(tool: ToolSpec) -> str:
    return json.dumps([tool.operation, tool.parameters], sort_keys=True)


def _tool(
    domain: Domain, kind: str, name: str, required: list[str], optional: list[str], *,
    returns: list[str] | None = None, step: Transition | Adjustment | None = None,
) -> ToolSpec:  # fmt: skip
    """A tool whose parameters have the names of the fields."""
    arguments = {field: field for field in (*required, *optional)}
    properties = {field: domain.fields[field].as_schema() for field in arguments}
    values: dict[str, Any] = {}
    if isinstance(step, Transition):
        values = {step.field: step.value}
    if isinstance(step, Adjustment):
        arguments[step.parameter] = step.field
        properties[step.parameter] = {"type": "integer"}
        required = [*required, step.parameter]
    operation = {
        "kind": kind, "entity": domain.entity, "key": domain.key, "arguments": arguments, "values": values,
        "returns": returns or [], "sign": step.sign if isinstance(step, Adjustment) else 1,
        "defaults": {n: f.initial for n, f in domain.fields.items() if kind == "create" and f.initial is not None},
        "verb": step.verb if step else kind,
    }  # fmt: skip
    parameters = {"type": "object", "properties": properties, "required": required}
    tool = ToolSpec(name, "", parameters, domain.domain, domain.category, "evolved", operation, "train")
    return replace(tool, description=describe(domain, tool))


def describe(domain: Domain, tool: ToolSpec) -> str:
    """A plain description from what the operation does; it names the entity."""
    operation = tool.semantics
    kind, entity, plural = operation["kind"], domain.entity, domain.plural
    a_entity = f"{'an' if entity[0] in 'aeiou' else 'a'} {entity}"
    fields = [field for field in operation["arguments"].values() if field != domain.key]
    if kind == "create":
        return f"Add {a_entity}"
    if kind == "get":
        returned = operation["returns"]
        return f"Get the {returned[0]} of {a_entity}" if len(returned) == 1 else f"Get {a_entity}"
    if kind == "find":
        return f"Find {plural} by {' and '.join(fields)}"
    if kind == "delete":
        return f"Delete {a_entity}"
    if operation["values"] or kind == "adjust":
        verb = operation["verb"].replace("_", " ").capitalize()
        return f"{verb} {a_entity}" if kind == "update" else f"{verb}: change the {fields[0]} of {a_entity}"
    return f"Set the {fields[0]} of {a_entity}" if len(fields) == 1 else f"Change {a_entity}"


Mutation = Callable[[Domain, ToolSpec, Random], ToolSpec | None]


def specialise(domain: Domain, tool: ToolSpec, random: Random) -> ToolSpec | None:
    """An operation on all fields becomes one on a single field."""
    operation = tool.semantics
    kind, key = operation["kind"], domain.key
    if kind == "get" and len(operation["returns"]) > 1:
        field = random.choice(operation["returns"])
        return _tool(domain, "get", f"get_{domain.entity}_{field}", [key], [], returns=[field])
    if kind == "update" and len(tool.parameters["properties"]) > 2:
        field = random.choice(list(domain.details))
        return _tool(domain, "update", f"set_{domain.entity}_{field}", [key, field], [])
    if kind == "find":
        field = random.choice([name for name, spec in domain.fields.items() if spec.enum and name != key])
        return _tool(domain, "find", f"find_{domain.plural}_by_{field}", [field], [])
    return None


def rename_tool(domain: Domain, tool: ToolSpec, random: Random) -> ToolSpec | None:
    """Another verb in the name."""
    kind = tool.semantics["kind"]
    for verb in SYNONYMS.get(kind, ()):
        if tool.name.startswith(verb + "_"):
            other = random.choice([word for word in SYNONYMS[kind] if word != verb])
            return replace(tool, name=other + tool.name.removeprefix(verb))
    return None


def rename_parameter(domain: Domain, tool: ToolSpec, random: Random) -> ToolSpec | None:
    """Another name for a parameter; the field behind it stays."""
    operation = tool.semantics
    aliases = {
        name: [f"{domain.entity}_{name}"] if field == domain.key else domain.fields[field].aliases
        for name, field in operation["arguments"].items() if name == field
    }  # fmt: skip
    choices = [(name, alias) for name, options in aliases.items() for alias in options]
    if not choices:
        return None
    name, alias = random.choice(choices)
    new_name = f"{tool.name}_by_{domain.key}" if name == domain.key else f"{tool.name}_{alias}"
    return _rebuild(tool, new_name, lambda old: alias if old == name else old)


def add_optional(domain: Domain, tool: ToolSpec, random: Random) -> ToolSpec | None:
    """A creating or searching tool takes one more field, if the caller has it."""
    operation = tool.semantics
    used = set(operation["arguments"].values())
    kind = operation["kind"]
    free = [name for name, spec in domain.details.items() if name not in used and (kind == "create" or spec.enum)]
    if kind not in ("create", "find") or not free:
        return None
    field = random.choice(free)
    spec: FieldSpec = domain.fields[field]
    joint = "with" if kind == "create" else "and"
    parameters = {**tool.parameters, "properties": {**tool.parameters["properties"], field: spec.as_schema()}}
    child = replace(
        tool, name=f"{tool.name}_{joint}_{field}", parameters=parameters,
        operation={**operation, "arguments": {**operation["arguments"], field: field}},
    )  # fmt: skip
    return replace(child, description=describe(domain, child))


def drop_field(domain: Domain, tool: ToolSpec, random: Random) -> ToolSpec | None:
    """A creating tool no longer asks for one of its fields."""
    operation = tool.semantics
    droppable = [name for name, field in operation["arguments"].items() if field != domain.key]
    if operation["kind"] != "create" or len(droppable) < 2:
        return None
    name = random.choice(droppable)
    return _rebuild(tool, f"quick_{tool.name}", lambda old: None if old == name else old)


MUTATIONS: tuple[Mutation, ...] = (specialise, specialise, rename_tool, rename_parameter, add_optional, drop_field)


def _rebuild(tool: ToolSpec, name: str, rename: Callable[[str], str | None]) -> ToolSpec:
    """`tool` under `name` with its parameters renamed, or left out where `rename` gives None."""
    operation, old = tool.semantics, tool.parameters
    parameters = {
        "type": "object",
        "properties": {new: schema for n, schema in old["properties"].items() if (new := rename(n))},
        "required": [new for n in old["required"] if (new := rename(n))],
    }
    arguments = {new: field for n, field in operation["arguments"].items() if (new := rename(n))}
    return replace(tool, name=name, parameters=parameters, operation={**operation, "arguments": arguments})


def assign_splits(tools: list[ToolSpec], plain: set[str]) -> list[ToolSpec]:
    """A fifth of the evolved tools, by the hash of their names, is held out; the `plain` ones never are."""
    return [tool if tool.name in plain else replace(tool, split=split_of(tool.name)) for tool in tools]
