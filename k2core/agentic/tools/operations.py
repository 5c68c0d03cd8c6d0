"""The operations of the catalogue's tools beyond those of `simulator.apply`: on lists, numbers, days and many records.

Each takes the operation, the arguments of a call that fits the schema, and the table of the entity, which it changes
in place; it returns the result.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

Table = dict[str, dict[str, Any]]
Record = dict[str, Any]

_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "is": lambda held, value: held == value,
    "from": lambda held, value: held is not None and held >= value,
    "until": lambda held, value: held is not None and held <= value,
    "has": lambda held, value: value in (held or []),
    "says": lambda held, value: value.casefold() in str(held).casefold(),
    "lacks": lambda held, value: held is None,
}


def _at(record: Any, path: str) -> Any:
    """What lies at `address.city`; None if nothing does."""
    for name in path.split("."):
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _fitting(operation: Record, arguments: Record, table: Table) -> Table:
    """The records that fit the fixed values and the filters whose arguments are given."""
    filters = [(path, test, _at(arguments, name)) for name, path, test in operation["filters"]]
    filters += [(path, "is", value) for path, value in operation["values"].items()]
    kept = [(path, test, value) for path, test, value in filters if value is not None or test == "lacks"]
    return {
        key: record
        for key, record in table.items()
        if all(_TESTS[test](_at(record, path), value) for path, test, value in kept)
    }


def _search(operation: Record, arguments: Record, table: Table) -> Record:
    rows = _fitting(operation, arguments, table)
    by = arguments.get("sort_by", operation.get("by"))
    keys = sorted(rows)
    if by:
        keys = sorted((key for key in keys if rows[key].get(by) is not None), key=lambda key: rows[key][by])
    if arguments.get("descending", operation.get("descending", False)):
        keys.reverse()
    first = arguments.get("offset", 0)
    return {"found": keys[first:][: arguments.get("limit", operation.get("first"))], "count": len(rows)}


def _count(operation: Record, arguments: Record, table: Table) -> Record:
    return {"count": len(_fitting(operation, arguments, table))}


def _groups(operation: Record, arguments: Record, table: Table) -> Record:
    rows = _fitting(operation, arguments, table).values()
    return {
        "counts": dict(sorted(Counter(str(row[operation["by"]]) for row in rows if operation["by"] in row).items()))
    }


def _distinct(operation: Record, arguments: Record, table: Table) -> Record:
    rows = _fitting(operation, arguments, table).values()
    return {"values": sorted({row[operation["by"]] for row in rows if operation["by"] in row})}


def _measure(operation: Record, arguments: Record, table: Table) -> Record:
    """total, average, maximum or minimum of a number."""
    rows = _fitting(operation, arguments, table).values()
    values = [row[operation["by"]] for row in rows if operation["by"] in row]
    if not values:
        return {"error": "nothing fits"}
    measure = operation["measure"]
    found = max(values) if measure == "maximum" else min(values) if measure == "minimum" else sum(values)
    return {measure: round(found / len(values) if measure == "average" else found, 2)}


def _export(operation: Record, arguments: Record, table: Table) -> Record:
    names = arguments.get("fields") or operation["returns"]
    rows = [
        {operation["key"]: key} | {n: table[key].get(n) for n in names}
        for key in sorted(_fitting(operation, arguments, table))
    ]
    if arguments["format"] == "json":
        return {"rows": rows}
    text = io.StringIO()
    writer = csv.DictWriter(text, [operation["key"], *names])
    writer.writeheader()
    writer.writerows(rows)
    return {"csv": text.getvalue()}


def _purge(operation: Record, arguments: Record, table: Table) -> Record:
    keys = sorted(_fitting(operation, arguments, table))
    if arguments.get("dry_run"):
        return {"would_delete": keys}
    for key in keys:
        del table[key]
    return {"deleted": keys}


def _exists(operation: Record, arguments: Record, table: Table) -> Record:
    return {"exists": arguments[operation["key"]] in table}


def _import(operation: Record, arguments: Record, table: Table) -> Record:
    taken = [row[operation["key"]] for row in arguments[operation["many"]] if row[operation["key"]] in table]
    if taken:
        return {"error": "exists already", operation["entity"]: taken[0]}
    for row in arguments[operation["many"]]:
        table[row[operation["key"]]] = operation["defaults"] | {n: v for n, v in row.items() if n != operation["key"]}
    return {"result": "created", "count": len(arguments[operation["many"]])}


def _each(operation: Record, arguments: Record, table: Table) -> Record:
    """Read, change or delete the records of several keys; one that is missing stops all."""
    keys = arguments[operation["many"]]
    if missing := [key for key in keys if key not in table]:
        return {"error": "not found", operation["entity"]: missing[0]}
    if operation["kind"] == "read_many":
        names = arguments.get("fields") or operation["returns"]
        return {operation["many"]: {key: {n: table[key][n] for n in names if n in table[key]} for key in keys}}
    for key in dict.fromkeys(keys):
        if operation["kind"] == "delete_many":
            del table[key]
        else:
            table[key] |= arguments.get("changes", {}) | operation["values"]
    return {"result": "deleted" if operation["kind"] == "delete_many" else "updated", "count": len(set(keys))}


def _of_one(act: Callable[[Record, Record, Table, str], Record]) -> Callable[[Record, Record, Table], Record]:
    """An operation on the record of one key, which must be there."""

    def operate(operation: Record, arguments: Record, table: Table) -> Record:
        key, entity = arguments[operation["key"]], operation["entity"]
        if key not in table:
            return {"error": "not found", entity: key}
        return {entity: key} | act(operation, arguments, table, key)

    return operate


def _read(operation: Record, arguments: Record, table: Table, key: str) -> Record:
    names = arguments.get("fields") or operation["returns"]
    return {name: table[key][name] for name in names if name in table[key]}


def _copy(operation: Record, arguments: Record, table: Table, key: str) -> Record:
    """A copy under another key; `rename` gives up the old one."""
    new = arguments[operation["new"]]
    if new in table:
        return {"error": "exists already"}
    table[new] = dict(table[key])
    if operation["kind"] == "rename":
        del table[key]
    return {"result": "renamed" if operation["kind"] == "rename" else "copied", "to": new}


def _item(operation: Record, arguments: Record, table: Table, key: str) -> Record:
    """Add an item to a list, or remove it."""
    name, item = operation["by"], arguments[operation["item"]]
    held = list(table[key].get(name, []))
    if (item in held) == (operation["sign"] > 0):
        return {"error": "in the list already" if operation["sign"] > 0 else "not in the list"}
    table[key][name] = [*held, item] if operation["sign"] > 0 else [other for other in held if other != item]
    return {"result": "updated", name: table[key][name]}


def _length(operation: Record, arguments: Record, table: Table, key: str) -> Record:
    return {"count": len(table[key].get(operation["by"], []))}


def _shift(operation: Record, arguments: Record, table: Table, key: str) -> Record:
    """Move a day by `days`."""
    name = operation["by"]
    if name not in table[key]:
        return {"error": f"no {name} is set"}
    moved = date.fromisoformat(table[key][name]) + timedelta(days=operation["sign"] * arguments["days"])
    table[key][name] = moved.isoformat()
    return {"result": "updated", name: table[key][name]}


def _clear(operation: Record, arguments: Record, table: Table, key: str) -> Record:
    return {"result": "updated"} if table[key].pop(operation["by"], None) is not None else {"error": "not set"}


OPERATIONS: dict[str, Callable[[Record, Record, Table], Record]] = {
    "search": _search, "count": _count, "groups": _groups, "distinct": _distinct, "measure": _measure,
    "export": _export, "purge": _purge, "exists": _exists, "import": _import, "read_many": _each,
    "delete_many": _each, "update_many": _each, "read": _of_one(_read), "copy": _of_one(_copy),
    "rename": _of_one(_copy), "item": _of_one(_item), "length": _of_one(_length), "shift": _of_one(_shift),
    "clear": _of_one(_clear),
}  # fmt: skip
