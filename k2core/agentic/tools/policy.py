"""The policy of a world, carried out: a rule forbids a call for which all its tests hold.

A test is `[path, test, operand]`. A path is a parameter of the call, else a field of its record, or a field of the
record that links lead to (`shopper.level`); `me` is whom the agent talks to. An operand is a value, a list of values,
or `$path`. The scripts of tasks have the same tests over values that were said and read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Rule = dict[str, Any]
SESSION = "session"
"""The table of what belongs to a dialogue: who speaks (`me`), and the condition of the store."""
TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "in": lambda left, right: left in right,
    "not_in": lambda left, right: left not in right,
    "above": lambda left, right: isinstance(left, int) and isinstance(right, int) and left > right,
}


def session(me: str = "", **store: Any) -> dict[str, Any]:
    """What `SESSION` holds."""
    return {"user": {"me": me}} if me else {"store": store}


def holds(tests: Iterable[Sequence[Any]], value: Callable[[Any], Any]) -> bool:
    """Whether all tests hold; `value` gives what stands for a left or right side."""
    return all(TESTS[test](value(left), value(right)) for left, test, right in tests)


def broken(operation: dict[str, Any], arguments: dict[str, Any], state: dict[str, Any]) -> list[Rule]:
    """The rules that forbid a call; none if its record does not exist."""
    if not operation.get("rules") or arguments.get(operation["key"]) not in state.get(operation["entity"], {}):
        return []

    def at(path: str) -> Any:
        if path == "me":
            return state[SESSION]["user"]["me"]
        if path in arguments:
            return arguments[path]
        table, key = operation["entity"], arguments[operation["key"]]
        *links, name = path.split(".")
        for link in links:
            table, key = operation["links"][table][link], state[table].get(key, {}).get(link)
        return state[table].get(key, {}).get(name)

    return [
        rule for rule in operation["rules"]
        if holds([(at(path), test, operand(right, at)) for path, test, right in rule["when"]], lambda value: value)
    ]  # fmt: skip


def operand(value: Any, at: Callable[[str], Any]) -> Any:
    """A right side with `at(path)` for each `$path`."""
    if isinstance(value, list):
        return [operand(each, at) for each in value]
    return at(value[1:]) if isinstance(value, str) and value.startswith("$") else value
