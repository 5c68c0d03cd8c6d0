"""The tool simulator: a small world that keeps its state between calls (K2 §3.1's world model).

The state is `{entity: {key: {field: value}}}`. A tool obeys the rules of its world (`policy`), and the store of a task
may have a condition (`store`). A call never raises: what cannot be done comes back as an error
result and leaves the state as it was. Controlled randomness makes a share of the calls fail temporarily; which
ones depends on the seed and the number of the call alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from k2core.agentic.tools.operations import OPERATIONS
from k2core.agentic.tools.policy import SESSION, broken
from k2core.agentic.tools.specs import ToolSpec
from k2core.agentic.tools.store import STALE, TIMED_OUT, respond
from k2core.chat.parser import ToolCall, argument_errors, load_arguments

State = dict[str, dict[str, dict[str, Any]]]
UNAVAILABLE = "temporarily unavailable, try again"
PASSING = (UNAVAILABLE, TIMED_OUT, STALE)
"""What a result says that calls for the same call once more."""
NOT_RUNNING = "this tool is not running here"


@dataclass
class Outcome:
    """What a call gave: a JSON object (from a real server a plain text), and whether the call was well-formed."""

    result: dict[str, Any] | str
    valid: bool = True
    tool: str = ""
    state: str = ""

    @property
    def ok(self) -> bool:
        """Whether the call did something or answered something, "not found" included."""
        passing = isinstance(self.result, dict) and {self.result.get("error"), self.result.get("note")} & {*PASSING}
        return self.valid and not passing

    @property
    def text(self) -> str:
        """The tool message's content."""
        return self.result if isinstance(self.result, str) else json.dumps(self.result, ensure_ascii=False)


@dataclass
class Simulator:
    """One world with the tools declared in it.

    Args:
        tools: name → spec, with operations.
        state: initial state; copied.
        seed: of the temporary failures.
        failure_rate: share of the valid calls that find the tool unavailable.
    """

    tools: Mapping[str, ToolSpec]
    state: State
    seed: str = ""
    failure_rate: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = copy.deepcopy(self.state)

    def execute(self, call: ToolCall) -> Outcome:
        """Carry out one call and remember the outcome with the state after it."""
        outcome = self._outcome(call)
        outcome.tool, outcome.state = call.name, state_hash(self.state)
        self.outcomes.append(outcome)
        return outcome

    def _outcome(self, call: ToolCall) -> Outcome:
        try:
            tool, arguments = check_call(call, self.tools)
        except ValueError as error:
            return Outcome({"error": str(error)}, valid=False)
        if Random(f"{self.seed}/{len(self.outcomes)}").random() < self.failure_rate:
            return Outcome({"error": UNAVAILABLE})
        if tool.operation is None:  # declared alone
            return Outcome({"error": NOT_RUNNING})
        if store := self.state.get(SESSION, {}).get("store"):
            past = [outcome.result for outcome in self.outcomes]
            return Outcome(respond(store, past, tool.semantics, arguments, self.state, apply))
        return Outcome(apply(tool.semantics, arguments, self.state))


def check_call(call: ToolCall, tools: Mapping[str, ToolSpec]) -> tuple[ToolSpec, dict[str, Any]]:
    """The tool and the arguments of a well-formed call.

    Raises:
        ValueError: unknown tool, arguments that are no JSON object or break the schema; the sentence the agent reads.
    """
    tool = tools.get(call.name)
    if tool is None:
        raise ValueError(f"unknown tool {call.name[:40]}")
    arguments = load_arguments(call.arguments)
    errors = argument_errors(call.name, arguments, tool.parameters)
    if errors:
        raise ValueError(errors[0])
    return tool, arguments


def apply(operation: dict[str, Any], arguments: dict[str, Any], state: State) -> dict[str, Any]:
    """Carry out `operation` on `state`, in place, and return the result.

    Kinds: create, get, update (also a transition, by fixed `values`), adjust, delete, find; and those of OPERATIONS.
    """
    entity, kind = operation["entity"], operation["kind"]
    if against := broken(operation, arguments, state):
        return {"error": f"not allowed: {against[0]['says']}"}
    table = state.setdefault(entity, {})
    if kind in OPERATIONS:
        return OPERATIONS[kind](operation, arguments, table)
    values = {field: arguments[name] for name, field in operation["arguments"].items() if name in arguments}
    if kind == "find":
        found = [key for key, record in table.items() if all(record.get(f) == v for f, v in values.items())]
        return {"found": sorted(found)}
    key = values.pop(operation["key"])
    if kind == "create":
        if key in table:
            return {"error": "exists already", entity: key}
        table[key] = {**operation["defaults"], **values}
        return {"result": "created", entity: key}
    if key not in table:
        return {"error": "not found", entity: key}
    record = table[key]
    if kind == "get":
        return {entity: key, **{name: record[name] for name in operation["returns"] if name in record}}
    if kind == "delete":
        del table[key]
        return {"result": "deleted", entity: key}
    if kind == "adjust":
        ((name, amount),) = values.items()
        new = record.get(name, 0) + operation["sign"] * amount
        if amount <= 0 or new < 0:
            return {"error": f"{name} would be {new}" if new < 0 else "amount must be positive", entity: key}
        values = {name: new}
    record |= values | operation["values"]
    return {"result": "updated", entity: key, **values, **operation["values"]}


def state_hash(state: State) -> str:
    """Digest of a state; key order, empty tables and 3 or 3.0 make no difference."""
    kept = {entity: table for entity, table in state.items() if table}
    return hashlib.sha256(json.dumps(_plain(kept), sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
