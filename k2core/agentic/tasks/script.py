"""What an oracle knows of a task: the calls that reach its goal, and what to say of each result.

A script holds no value that only a tool can tell. An argument, or a slot of an answer, is one of these:

| form | value |
|---|---|
| a literal, also inside a list or an object | what the user said |
| `{"from": [call, step, …], "find": pattern}` | read from the result of call number `call`: along the steps (a key, a place in a list, `*` for each of its items; without steps the whole text), then the first group of the pattern, if there is one |
| `{"text": "… {} …", "with": […]}` | a text around such values |
"""  # noqa: E501 (a table)

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k2core.storage import parse_json


@dataclass(frozen=True)
class Read:
    """A value that an earlier result will show: as the task's world has it now, and where it will stand (`at`)."""

    value: Any
    where: dict[str, Any]


@dataclass(frozen=True)
class Text:
    """A text around values, such as a statement in SQL."""

    text: str
    parts: tuple[Any, ...]


def at(call: int, *steps: str | int, find: str = "") -> dict[str, Any]:
    """A reference to the result of call number `call`."""
    return {"from": [call, *steps]} | ({"find": find} if find else {})


def gold(value: Any) -> Any:
    """An argument as the gold path has it."""
    if isinstance(value, Read):
        return value.value
    if isinstance(value, Text):
        return value.text.format(*map(gold, value.parts))
    if isinstance(value, list):
        return [gold(each) for each in value]
    return {name: gold(each) for name, each in value.items()} if isinstance(value, dict) else value


def stated(value: Any) -> Any:
    """An argument as the script has it."""
    if isinstance(value, Read):
        return value.where
    if isinstance(value, Text):
        return {"text": value.text, "with": [stated(part) for part in value.parts]}
    if isinstance(value, list):
        return [stated(each) for each in value]
    return {name: stated(each) for name, each in value.items()} if isinstance(value, dict) else value


def literals(value: Any) -> Iterator[str]:
    """What the user must have said before `value`, as the script has it, may be used."""
    if isinstance(value, dict):
        if not _reference(value):
            for each in value["with"] if _text(value) else value.values():
                yield from literals(each)
    elif isinstance(value, list):
        for each in value:
            yield from literals(each)
    else:
        yield str(value)


def resolve(value: Any, results: Mapping[int, str]) -> Any:
    """A value of the script after the calls that gave `results`.

    Raises:
        LookupError: a result does not have it.
    """
    if isinstance(value, list):
        return [resolve(each, results) for each in value]
    if not isinstance(value, dict):
        return value
    if _text(value):
        return value["text"].format(*(resolve(part, results) for part in value["with"]))
    if not _reference(value):
        return {name: resolve(each, results) for name, each in value.items()}
    call, *steps = value["from"]
    found = _along(steps, content(results[call])) if steps else results[call]
    if "find" not in value:
        return found
    match = re.search(value["find"], str(found))
    if match is None:
        raise LookupError(f"nothing like {value['find']}")
    return match[1]


def content(text: str) -> Any:
    """A result as JSON, where it is JSON, all of it or what follows its first line; else as it stands."""
    for part in (text, text.partition("\n")[2]):
        try:
            return parse_json(part)
        except ValueError:
            continue
    return text


def _along(steps: Sequence[str | int], value: Any) -> Any:
    if not steps:
        return value
    step, *others = steps
    if isinstance(value, list):
        if step == "*":
            return [_along(others, each) for each in value]
        if isinstance(step, int) and step < len(value):
            return _along(others, value[step])
    elif isinstance(value, dict) and step in value:
        return _along(others, value[step])
    raise LookupError(f"no {step}")


def _reference(value: dict[str, Any]) -> bool:
    return isinstance(value.get("from"), list)


def _text(value: dict[str, Any]) -> bool:
    return "text" in value and "with" in value
