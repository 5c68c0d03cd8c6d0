"""What a store of the catalogue's tools may do to a call: the conditions that its tasks are made for.

| condition | what happens |
|---|---|
| `plain` | nothing special |
| `timeout` | the first call times out and does nothing |
| `late` | the first call times out though it has done its work |
| `stale` | the first read gives an old value, and says that it is a stale copy |
| `denied` | a write on some records is not permitted |
| `ambiguous` | the first word of several keys stands for none of them |
| `pages` | a list comes in pages of `size`, with the offset of the next one |
| `partial` | the first call does its work for all but some of the records, and says for which not |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

TIMED_OUT = "timed out, try again"
STALE = "a stale copy, try again"
Result = dict[str, Any]


def respond(
    store: Result, past: Sequence[Any], operation: Result, arguments: Result, state: Result,
    apply: Callable[[Result, Result, Result], Result],
) -> Result:  # fmt: skip
    """The result of a call.

    Args:
        store: the condition and what belongs to it, as the task's world has it.
        past: the results so far; what happens once has happened if one of them says so.
    """
    condition, entity = store["condition"], operation["entity"]
    table, key = state.get(entity, {}), arguments.get(operation["key"])
    first = not any(isinstance(each, dict) and {"note", "failed"} & set(each) for each in past)
    first = first and {"error": TIMED_OUT} not in past
    if condition == "ambiguous" and isinstance(key, str) and key not in table:
        matches = sorted(name for name in table if name.startswith(f"{key} "))
        return {"error": "ambiguous", "matches": matches} if matches else {"error": "not found", entity: key}
    if condition == "denied" and key in store["keys"] and operation["kind"] != "read":
        return {"error": "permission denied", entity: key}
    if condition == "timeout" and first:
        return {"error": TIMED_OUT}
    many = arguments.get(operation.get("many", ""), ())
    failed = [each for each in many if condition == "partial" and first and each in store["keys"]]
    if failed:
        arguments = arguments | {operation["many"]: [each for each in many if each not in failed]}
    result = apply(operation, arguments, state)
    if failed:
        return result | {"failed": failed}
    if condition == "late" and first:
        return {"error": TIMED_OUT}
    if condition == "stale" and first and operation["kind"] == "read":
        return result | store["old"] | {"note": STALE}
    if condition == "pages" and len(result.get("found", ())) > store["size"]:
        return result | {"found": result["found"][: store["size"]], "next": arguments.get("offset", 0) + store["size"]}
    return result
