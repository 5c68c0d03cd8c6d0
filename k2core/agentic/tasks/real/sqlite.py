"""Tasks on a real database, executed by `database-mcp-sqlite`: reads, writes, and chains of up to three calls."""

from __future__ import annotations

import copy
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.tasks.real_domain import RealDomain, Wish, call, check_plain, made_up
from k2core.agentic.tasks.script import Read, Text, at
from k2core.agentic.tools.simulator import State

FILE = "world.sqlite"
TABLES = {
    "plants": ("bed", "height"), "books": ("shelf", "pages"), "parts": ("bin", "stock"), "boats": ("harbour", "length"),
    "wines": ("cellar", "bottles"), "routes": ("depot", "minutes"), "lamps": ("room", "watts"),
    "seeds": ("drawer", "packets"),
}  # fmt: skip
"""Table → its columns of text and of whole numbers, beside `name`."""
KINDS = ("read", "change", "count", "add", "remove", "largest", "unknown", "look_then_change", "columns")
NO_ROWS = r"^0 rows"
UPDATE = "UPDATE {} SET {} = {} WHERE name = '{}'"
READ, LOOK = "execute_sql", "search_objects"
STATEMENTS = re.compile(r"\s*(select|insert|update|delete|replace|with|values)\b", re.IGNORECASE)
"""What reads and writes rows: a task needs no other statement, and others reach files or keep the database locked."""
OUTSIDE = re.compile(r"\b(pragma_\w+|load_extension|sqlite_\w+)\b", re.IGNORECASE)
"""Functions and tables of SQLite's own, which tell of the machine or change what the others mean."""
MOST_ROWS = 10_000
"""Rows of a table that is still read back; a task has seven."""


class Sqlite(RealDomain):
    """One table among three: `{table: {name: {text column, number column}}}`."""

    name = "sqlite"
    system = "You answer questions about a database, whose tables have a column name, and keep it up to date."
    tools = (READ, LOOK)

    def wish(self, number: int, random: Random) -> Wish:
        kind = KINDS[number % len(KINDS)]
        state: State = {name: _rows(name, random) for name in random.sample(list(TABLES), 3)}
        table = random.choice(list(state))
        rows = state[table]
        place, amount = TABLES[table]
        name = random.choice(list(rows))
        end = copy.deepcopy(state)
        value = random.randint(1, 999)
        none = {"thing": f"{amount} in the table {table}", "absent": NO_ROWS}
        match kind:
            case "read":
                found = str(rows[name][amount])
                clause = f"what is the {amount} of {name} in the table {table}"
                answer = f"The {amount} of {name} is {found}."
                calls = [_look_up(amount, table, name)]
                return _wish(clause, answer, calls, state, end, [found], [f'"{amount}":{found}'])
            case "count":
                where = rows[name][place]
                found = str(sum(row[place] == where for row in rows.values()))
                clause = f"how many rows of the table {table} have the {place} {where}"
                says: dict[str, Any] = {"words": "count", "value": at(0, "rows", 0, "n")}
                calls = [_sql(says, 0, "SELECT COUNT(*) AS n FROM {} WHERE {} = '{}'", table, place, where)]
                return _wish(clause, f"There are {found}.", calls, state, end, [found], [f'"n":{found}'])
            case "largest":
                best = max(rows, key=lambda each: rows[each][amount])
                clause = f"which entry of the table {table} has the largest {amount}"
                says = {"words": "best", "value": at(0, "rows", 0, "name"), **none}
                calls = [_sql(says, 0, "SELECT name, {} FROM {} ORDER BY {} DESC LIMIT 1", amount, table, amount)]
                return _wish(clause, f"It is {best}.", calls, state, end, [best], [best])
            case "unknown":
                other = made_up(random, 3)
                clause = f"what is the {amount} of {other} in the table {table}"
                calls = [_look_up(amount, table, other)]
                answer = f"There is no {other} in the table {table}."
                return _wish(clause, answer, calls, state, end, [other, "no"], ["0 rows"])
            case "columns":
                clause = f"which columns does the table {table} have"
                calls = [call(LOOK, {"words": "columns", "value": at(0, "columns", "*", "name")}, table=table)]
                answer = f"The columns are name, {place} and {amount}."
                return _wish(clause, answer, calls, state, end, [place, amount], [place, amount])
            case "change":
                end[table][name][amount] = value
                clause, answer = f"set the {amount} of {name} in the table {table} to {value}", "is now"
                says = {"words": "changed", "label": amount, "key": name, "value": str(value), **_written(name, 0)}
                calls = [_sql(says, 0, UPDATE, table, amount, value, name)]
                return _wish(clause, f"The {amount} of {name} {answer} {value}.", calls, state, end, [name, str(value)])
            case "add":
                new, where = made_up(random, 3), made_up(random)
                end[table][new] = {place: where, amount: value}
                clause = f"add {new} to the table {table}, with the {place} {where} and the {amount} {value}"
                sql = "INSERT INTO {} (name, {}, {}) VALUES ('{}', '{}', {})"
                says = {"words": "row_added", **_written(new, 0)}
                calls = [_sql(says, 0, sql, table, place, amount, new, where, value)]
                return _wish(clause, f"I added {new}.", calls, state, end, [new])
            case "remove":
                del end[table][name]
                clause = f"delete {name} from the table {table}"
                says = {"words": "row_deleted", **_written(name, 0)}
                calls = [_sql(says, 0, "DELETE FROM {} WHERE name = '{}'", table, name)]
                return _wish(clause, f"I deleted {name}.", calls, state, end, [name])
        least = min(rows, key=lambda each: rows[each][amount])
        end[table][least][amount] = value
        clause = f"look at the table {table} and set the smallest {amount} in it to {value}"
        found_least = at(1, "rows", 0, "name")
        says = {"words": "changed", "label": amount, "key": found_least, "value": str(value)}
        says |= _written(none["thing"], 2)
        calls = [
            call(LOOK, {"proof": at(0, "columns")}, table=table),
            _sql(none, 1, "SELECT name, {} FROM {} ORDER BY {} LIMIT 1", amount, table, amount),
            _sql(says, 2, UPDATE, table, amount, value, Read(least, found_least)),
        ]
        return _wish(clause, f"The {amount} of {least} is now {value}.", calls, state, end, [least, str(value)])

    def make(self, folder: Path, state: State) -> None:
        """The server has the file open, so its tables go and the file stays."""
        with closing(sqlite3.connect(folder / FILE)) as database, database:
            for (old,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                database.execute(f'DROP TABLE "{old}"')
            for table, rows in state.items():
                check_plain(table)
                place, amount = TABLES[table]
                database.execute(f"CREATE TABLE {table} (name TEXT PRIMARY KEY, {place} TEXT, {amount} INTEGER)")
                values = [(name, row[place], row[amount]) for name, row in rows.items()]
                database.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", values)

    def state(self, folder: Path, initial: State) -> State:
        now: State = {}
        with closing(sqlite3.connect(folder / FILE)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                found = database.execute(f'SELECT * FROM "{table}"')
                columns = [column[0] for column in found.description]
                rows = found.fetchmany(MOST_ROWS + 1)
                if len(rows) > MOST_ROWS:
                    raise ValueError(f"the table {table} has more than {MOST_ROWS:,} rows")
                now[table] = {str(row[0]): dict(zip(columns[1:], row[1:], strict=True)) for row in rows}
        return now

    def refusal(self, arguments: Mapping[str, Any], folder: Path, initial: State) -> str:
        sql = str(arguments.get("sql", "select"))
        if not STATEMENTS.match(sql):
            return "only statements that read or write rows are allowed here"
        outside = OUTSIDE.search(sql)
        return f"{outside[0][:40]} is not part of this database" if outside else ""


DOMAIN = Sqlite()


def _rows(table: str, random: Random) -> dict[str, dict[str, Any]]:
    """Four to seven rows; no two numbers of a table are equal, so that the largest is one."""
    place, amount = TABLES[table]
    places = [made_up(random) for _ in range(3)]
    numbers = random.sample(range(1000, 9999), random.randint(4, 7))
    return {made_up(random, 3): {place: random.choice(places), amount: number} for number in numbers}


def _sql(says: Mapping[str, Any], turn: int, text: str, *parts: Any) -> dict[str, Any]:
    return call(READ, says, turn, sql=Text(text, parts))


def _look_up(column: str, table: str, name: str) -> dict[str, Any]:
    says = {"words": "value", "label": column, "key": name, "value": at(0, "rows", 0, column)}
    says |= {"thing": f"{name} in the table {table}", "absent": NO_ROWS}
    return _sql(says, 0, "SELECT {} FROM {} WHERE name = '{}'", column, table, name)


def _written(thing: str, number: int) -> dict[str, Any]:
    """How to see whether call `number` wrote its row."""
    return {"thing": thing, "absent": r"\(0 affected\)", "proof": at(number, find=r"\((\d+) affected\)")}


def _wish(
    clause: str, answer: str, calls: list[dict[str, Any]], state: State, end: State, mentions: list[str],
    returned: list[str] | None = None,
) -> Wish:  # fmt: skip
    return Wish(clause, returned is not None, answer, calls, [READ, LOOK], state, end, mentions, returned or [])
