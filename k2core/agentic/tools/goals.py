"""What a user can want from a tool: a goal with its call, its words, and how to see that it was met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from k2core.agentic.domains.taxonomy import Domain, Draws, Value
from k2core.agentic.tools.simulator import State
from k2core.agentic.tools.specs import ToolSpec

RECORDS = (2, 4)


@dataclass(frozen=True)
class Goal:
    """One wish and its only relevant facts.

    Attributes:
        tool, arguments: a call that meets it (others may too: the judge looks at the end state). An argument that an
            earlier result shows is a `k2core.agentic.tasks.script.Read`.
        clause: what the user says, without tone; `question` tells a question from a wish.
        answer: one good last sentence.
        facts: values that one tool result must hold together, as proof that the tool was asked the right thing.
        mentions: what the last answer must say.
        says, reads: how an oracle answers: the words with their slots, and the result's field for the slot `value`.
        withheld: parameter → (clause without it, its label, the value as the user says it).
        unless: rules by which the call is not made: the tests (`when`) and what is then said (`says`).
        heard: how many later turns of the user come before the call.
    """

    tool: str
    arguments: dict[str, Any]
    clause: str
    question: bool
    answer: str
    facts: list[str]
    mentions: list[str]
    says: dict[str, str]
    reads: str = ""
    withheld: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    unless: list[dict[str, Any]] = field(default_factory=list)
    heard: int = 0


def draw_state(domain: Domain, draws: Draws) -> State:
    """A small random world."""
    records = (domain.record(draws) for _ in range(draws.random.randint(*RECORDS)))
    return {domain.entity: dict(records)}


def draw_goal(
    domain: Domain, tool: ToolSpec, state: State, draws: Draws, *, missing: bool = False, avoid: Sequence[str] = ()
) -> Goal:
    """A goal that `tool` meets in `state`, which may be changed to make room for it.

    Args:
        missing: the entity the user names does not exist (kinds get, update, delete, adjust).
        avoid: keys that another goal of the same task is about.
    """
    table, operation = state[domain.entity], tool.semantics
    kind = operation["kind"]
    if kind == "find":
        return _find(domain, tool, table, draws)
    absent = missing or kind == "create"
    key = _new_key(domain, table, draws, avoid) if absent else _old_key(domain, table, draws, avoid)
    if kind == "create":
        return _create(domain, tool, key, draws)
    if kind in ("get", "read"):
        goal = _get(domain, tool, key, table.get(key), draws)
    elif kind == "delete":
        goal = _delete(domain, tool, key)
    elif kind == "adjust":
        goal = _adjust(domain, tool, key, table.get(key), draws)
    elif operation["values"]:
        goal = _transition(domain, tool, key, table.get(key))
    else:
        goal = _update(domain, tool, key, table.get(key), draws)
    return goal if not missing else _not_found(domain, goal, key)


def quote(value: Value) -> str:
    """Free text in quotes, so that it has the same tokens in a JSON argument; names, codes and numbers without."""
    text = str(value)
    return f'"{text}"' if " " in text and text[0].islower() else text


def _named(domain: Domain, key: str) -> str:
    return f"{_label(domain.entity)} {quote(key)}"


def _label(name: str) -> str:
    return name.replace("_", " ")


def _says(words: str, domain: Domain, key: str, field: str) -> dict[str, str]:
    """How to say the value of a field: in `words`."""
    return {"words": words, "thing": _named(domain, key), "label": _label(field), "key": quote(key)}


def _parameter(tool: ToolSpec, field: str) -> str:
    """The name of the parameter for `field`."""
    return next(name for name, behind in tool.semantics["arguments"].items() if behind == field)


def _new_key(domain: Domain, table: dict[str, Any], draws: Draws, avoid: Sequence[str]) -> str:
    while True:
        key = str(domain.fields[domain.key].draw(draws))
        if key not in table and key not in avoid:
            return key


def _old_key(domain: Domain, table: dict[str, Any], draws: Draws, avoid: Sequence[str]) -> str:
    keys = [key for key in table if key not in avoid]
    if not keys:
        key = _new_key(domain, table, draws, avoid)
        table[key] = domain.record(draws)[1]
        return key
    return draws.random.choice(keys)


def _create(domain: Domain, tool: ToolSpec, key: str, draws: Draws) -> Goal:
    required = set(tool.parameters["required"])
    fields = {
        name: field for name, field in tool.semantics["arguments"].items()
        if field != domain.key and (name in required or draws.random.random() < 0.5)
    }  # fmt: skip
    values = {name: domain.fields[field].draw(draws) for name, field in fields.items()}
    article = "an" if domain.entity[0] in "aeiou" else "a"
    start = f"{draws.random.choice(domain.create_words)} {article} {_named(domain, key)}"
    phrases = {n: domain.fields[field].phrase.replace("{}", quote(values[n])) for n, field in fields.items()}
    withheld = {
        n: (" ".join([start, *(text for other, text in phrases.items() if other != n)]), _label(field), phrases[n])
        for n, field in fields.items() if n in required
    }  # fmt: skip
    return Goal(
        tool.name, {_parameter(tool, domain.key): key, **values}, " ".join([start, *phrases.values()]), False,
        f"I added the {_named(domain, key)}.", [key], [key], {"words": "created", "thing": _named(domain, key)},
        withheld=withheld,
    )  # fmt: skip


def _get(domain: Domain, tool: ToolSpec, key: str, record: dict[str, Value] | None, draws: Draws) -> Goal:
    name = draws.random.choice(tool.semantics["returns"])
    value = str((record or {}).get(name, ""))
    return Goal(
        tool.name, {_parameter(tool, domain.key): key},
        f"what is the {_label(name)} of the {_named(domain, key)}", True,
        f"The {_label(name)} of {quote(key)} is {quote(value)}.", [key, value], [value],
        _says("value", domain, key, name), name,
    )  # fmt: skip


def _delete(domain: Domain, tool: ToolSpec, key: str) -> Goal:
    return Goal(
        tool.name, {_parameter(tool, domain.key): key}, f"delete the {_named(domain, key)}", False,
        f"I deleted the {_named(domain, key)}.", [key], [key], {"words": "deleted", "thing": _named(domain, key)},
    )  # fmt: skip


def _update(domain: Domain, tool: ToolSpec, key: str, record: dict[str, Value] | None, draws: Draws) -> Goal:
    fields = {n: f for n, f in tool.semantics["arguments"].items() if f != domain.key}
    name = draws.random.choice(list(fields))
    label = _label(fields[name])
    value = domain.fields[fields[name]].draw(draws, (record or {}).get(fields[name]))
    thing = f"the {label} of the {_named(domain, key)}"
    verb = Random(f"{key}/{value}").choice(("set", "change"))  # a stream of its own: what else is drawn stays as it is
    withheld = {name: (f"change {thing}", label, f"{quote(value)}")}
    return Goal(
        tool.name, {_parameter(tool, domain.key): key, name: value}, f"{verb} {thing} to {quote(value)}", False,
        f"The {label} of {quote(key)} is now {quote(value)}.", [key, str(value)], [str(value)],
        _says("changed", domain, key, fields[name]), fields[name], withheld,
    )  # fmt: skip


def _transition(domain: Domain, tool: ToolSpec, key: str, record: dict[str, Value] | None) -> Goal:
    step = next(step for step in domain.transitions if tool.semantics["values"] == {step.field: step.value})
    if record and record[step.field] == step.value:
        record[step.field] = next(value for value in domain.fields[step.field].enum or () if value != step.value)
    return Goal(
        tool.name, {_parameter(tool, domain.key): key}, step.phrase.replace("{}", quote(key)), False,
        f"The {_named(domain, key)} is now {step.value}.", [key, step.value], [key, step.value],
        {"words": "state", "thing": _named(domain, key)}, step.field,
    )  # fmt: skip


def _adjust(domain: Domain, tool: ToolSpec, key: str, record: dict[str, Any] | None, draws: Draws) -> Goal:
    step = next(step for step in domain.adjustments if step.verb == tool.semantics["verb"])
    amount = draws.random.randint(*step.range)
    new = str((record or {}).get(step.field, 0) + step.sign * amount)
    clause = step.phrase.replace("{key}", quote(key))
    withheld = {step.parameter: (clause.replace("{amount}", "some"), step.parameter, str(amount))}
    return Goal(
        tool.name, {_parameter(tool, domain.key): key, step.parameter: amount}, clause.replace("{amount}", str(amount)),
        False, f"The {_label(step.field)} of {quote(key)} is now {new}.", [key, new], [new],
        _says("changed", domain, key, step.field), step.field, withheld,
    )  # fmt: skip


def _find(domain: Domain, tool: ToolSpec, table: dict[str, dict[str, Any]], draws: Draws) -> Goal:
    required = set(tool.parameters["required"])
    fields = {n: f for n, f in tool.semantics["arguments"].items() if n in required}
    wanted = {f: table[draws.random.choice(list(table))][f] for f in list(fields.values())[:1]}
    found = sorted(key for key, record in table.items() if all(record.get(f) == v for f, v in wanted.items()))
    ((name, value),) = wanted.items()
    return Goal(
        tool.name, {n: wanted[f] for n, f in fields.items()},
        f"which {domain.plural} have {_label(name)} {quote(value)}", True,
        f"I found {' and '.join(quote(key) for key in found)}.", found, found, {"words": "found"}, "found",
    )  # fmt: skip


def _not_found(domain: Domain, goal: Goal, key: str) -> Goal:
    answer = f"There is no {_named(domain, key)}."
    return replace(goal, answer=answer, facts=[key, "not found"], mentions=[key, "no"])
