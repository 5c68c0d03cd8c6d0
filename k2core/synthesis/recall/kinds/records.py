"""Records as lines, JSON, tables or sentences, written again in another form, with questions over them."""

from __future__ import annotations

import json
from random import Random

from k2core.synthesis.values import Values

Record = dict[str, str]
Fields = list[str]


def make(random: Random, values: Values, text: str, characters: int) -> str:
    """Groups of one to four records with fields of their own; each group in two forms, then questions."""
    written = ""
    while len(written) < characters:
        fields = list(dict.fromkeys(values.word(random) for _ in range(random.randint(2, 4))))
        key, draws = values.word(random), [random.choice(values.kinds) for _ in fields]
        named = random.choice((values.person, values.phrase, values.code, values.name))
        table = {
            named(random): {field: draw(random) for field, draw in zip(fields, draws, strict=True)}
            for _ in range(random.randint(1, 4))
        }
        forms = random.sample((_lines, _json, _table, _sentences), 2)
        written += "\n".join(form(key, table) for form in forms) + "\n"
        for name in random.sample(sorted(table), min(2, len(table))):
            written += _asked(random, key, name, table[name], table)
        written += "\n"
    return written.rstrip()


def _asked(random: Random, key: str, name: str, record: Record, table: dict[str, Record]) -> str:
    field = random.choice(sorted(record))
    value = record[field]
    form = random.randrange(4)
    if form == 0:
        return f"What is the {field} of {name}? {value}\n"
    if form == 1:
        return f"The {field} of {name} is {value}.\n"
    if form == 2 and [other[field] for other in table.values()].count(value) == 1:
        return f"Which {key} has {field} {value}? {name}\n"
    return json.dumps({key: name, field: _typed(value)}, ensure_ascii=False) + "\n"


def _typed(value: str) -> str | int:
    """A number where JSON has one."""
    return int(value) if value == "0" or (value.isdigit() and value[0] != "0" and len(value) < 6) else value


def _lines(key: str, table: dict[str, Record]) -> str:
    return "\n".join(
        "\n".join([f"{key}: {name}", *(f"{field}: {value}" for field, value in record.items())])
        for name, record in table.items()
    )


def _json(key: str, table: dict[str, Record]) -> str:
    return "\n".join(
        json.dumps({key: name} | {field: _typed(value) for field, value in record.items()}, ensure_ascii=False)
        for name, record in table.items()
    )


def _table(key: str, table: dict[str, Record]) -> str:
    fields = list(next(iter(table.values())))
    rows = [[key, *fields], ["---"] * (len(fields) + 1), *([name, *record.values()] for name, record in table.items())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _sentences(key: str, table: dict[str, Record]) -> str:
    return " ".join(
        f"The {key} {name} has " + " and ".join(f"{field} {value}" for field, value in record.items()) + "."
        for name, record in table.items()
    )
