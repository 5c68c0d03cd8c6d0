"""Tools of the catalogue by grammar: domain → plain tools → variants → variants for some of the records.

A rule gives a tool of one domain: its name, its parameters with a draw of each, and its operation. `parent` in the
operation is the tool that it varies. `k2core.agentic.tools.gate` says which tools survive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from k2core.agentic.catalogue.entries import Entry, Field, plural_of, singular
from k2core.agentic.tools.parameters import (
    Parameter,
    Record,
    World,
    array,
    choice,
    flag,
    held,
    limit,
    nested,
    new_value,
    object_schema,
    whole,
)
from k2core.agentic.tools.specs import ToolSpec

ADDITIVE = {
    "EUR", "kg", "g", "km", "m", "hours", "minutes", "days", "nights", "seats", "pieces", "people", "liters", "ml",
    "tonnes", "kWh", "MW", "MWh", "pages", "points", "votes", "animals", "trees", "bottles", "hectares", "seconds",
    "rooms", "beds", "copies", "places", "GB", "visits", "plants", "lessons", "m3",
}  # fmt: skip
"""Units of which a sum over records says something."""
COUNTED = {
    "EUR", "pieces", "seats", "hours", "days", "nights", "beds", "places", "copies", "points", "votes", "animals",
    "people", "bottles", "minutes", "liters", "GB",
}  # fmt: skip
"""Units of what goes up and down."""
READS = {"read", "read_many", "exists", "search", "count", "groups", "distinct", "measure", "export", "length"}


@dataclass(frozen=True)
class Draft:
    """A tool with what the gate needs: draws of its parameters, and which records a right call may be about."""

    tool: ToolSpec
    draws: dict[str, Callable[[World], Any]]
    suits: Callable[[Record], bool]


@dataclass
class Rules:
    """The grammar of one domain.

    `fits` are the adjectives by which records are chosen, with the value that makes them true: states, and the names
    of fields that are true or false.
    """

    entry: Entry
    fits: dict[str, Record] = field(init=False)

    def __post_init__(self) -> None:
        self.fits = {state: {"status": state} for state in self.entry.states}
        self.fits |= {f.name: {f.name: True} for f in self.entry.fields.values() if f.form == "boolean"}

    def plain(self) -> Iterator[Draft]:
        """The operations that every domain has, and the steps between its states."""
        e, fields = self.entry, list(self.entry.fields.values())
        filters = [f for f in fields if f.form in ("enum", "person", "boolean")]
        sortable = [f.name for f in fields if f.form in ("integer", "number", "date", "day", "person", "name")]
        a_one = _a(_said(e.entity))
        yield self._draft(
            "create",
            self._create(),
            f"{self._create().split('_')[0].capitalize()} {a_one}",
            self._new_key() | {f.name: new_value(f, not f.optional) for f in fields},
        )
        yield self._draft("read", f"get_{e.entity}", f"Get {a_one}", self._key() | self._names())
        yield self._draft(
            "update", self._update(), f"Change the given fields of {a_one}",
            self._key() | {f.name: new_value(f, False) for f in fields},
        )  # fmt: skip
        yield self._draft("delete", f"delete_{e.entity}", f"Delete {a_one}", self._key())
        yield self._draft(
            "search", f"find_{e.plural}", f"Find {_said(e.plural)} that match all given filters",
            {f.name: held(f, False) for f in filters} | limit(), filters=[[f.name, f.name, "is"] for f in filters],
        )  # fmt: skip
        if sortable:
            yield self._draft(
                "search", f"list_{e.plural}", f"List {_said(e.plural)}, sorted and in pages",
                {"sort_by": choice(sortable, "Field to sort by"), "descending": flag("Largest or latest first"),
                 "offset": whole("How many results to skip", 0, 0, 1000), **limit()},
            )  # fmt: skip
        note = Parameter({"type": "string", "description": "Reason, kept in the record"}, lambda w: "as agreed", False)
        for verb, state in e.steps.items():
            yield self._draft(
                "update", f"{verb}_{e.entity}", f"{_said(verb).capitalize()} {a_one}; its status becomes {state}",
                self._key() | {"note": note}, values={"status": state}, suits=_not_yet(state),
            )  # fmt: skip

    def variants(self) -> Iterator[Draft]:
        """Variants of the plain tools: for one field, for many records, for a measure."""
        yield from self._of_tables()
        for f in self.entry.fields.values():
            yield from self._of_field(f)
            yield from self._searches(f, "", {})
            yield from self._measures(f, "", {})

    def narrower(self) -> Iterator[Draft]:
        """Variants of the variants: for the records that an adjective fits."""
        e = self.entry
        form = {"format": choice(["json", "csv"], "Format of the file", True), **self._names()}
        for word, values in self.fits.items():
            many, parent = f"{word} {_said(e.plural)}", f"find_{word}_{e.plural}"
            yield self._draft("export", f"export_{word}_{e.plural}", f"Export {many} as JSON or CSV", form, parent,
                              values=values)  # fmt: skip
            yield from self._ends(f"{word}_", values)
            for other, more in self.fits.items() if "status" in values else ():
                if "status" not in more:
                    yield self._draft("search", f"find_{other}_{word}_{e.plural}", f"Find {other} {many}", limit(),
                                      parent, values=values | more)  # fmt: skip
                    yield self._draft("count", f"count_{other}_{word}_{e.plural}", f"Count {other} {many}", {}, parent,
                                      values=values | more)  # fmt: skip
            for f in e.fields.values():
                if f.name != word:
                    yield from self._searches(f, f"{word}_", values)
                    yield from self._measures(f, f"{word}_", values)

    def _of_tables(self) -> Iterator[Draft]:
        e, one, many = self.entry, _said(self.entry.entity), _said(self.entry.plural)
        get, update, delete, find = f"get_{e.entity}", self._update(), f"delete_{e.entity}", f"find_{e.plural}"
        keys = {e.plural: array(e.key.schema, f"Which {many}", lambda w: [w.key])}
        yield self._draft("read_many", f"get_{e.plural}", f"Get several {many}", keys | self._names(), get)
        yield self._draft("delete_many", f"delete_{e.plural}", f"Delete several {many}", keys, delete)
        yield self._draft(
            "update_many", f"update_{e.plural}", f"Make the same changes to several {many}",
            keys | {"changes": nested("New values", {f.name: new_value(f, False) for f in e.fields.values()})}, update,
        )  # fmt: skip
        row = nested("", self._new_key() | {f.name: new_value(f, not f.optional) for f in e.fields.values()})
        rows = array(row.schema, f"The {many} to add", lambda w: [row.draw(w)])
        yield self._draft("import", f"import_{e.plural}", f"Add several {many}", {e.plural: rows}, self._create())
        yield self._draft(
            "export", f"export_{e.plural}", f"Export all {many} as JSON or CSV",
            {"format": choice(["json", "csv"], "Format of the file", True), **self._names()}, get,
        )  # fmt: skip
        yield self._draft("exists", f"check_{e.entity}_exists", f"Check whether {_a(one)} exists", self._key(), get)
        copied = {
            f"new_{e.key.name}": Parameter(
                {**e.key.schema, "description": f"{_said(e.key.name).capitalize()} of the copy"}, self._fresh
            )
        }
        yield self._draft("copy", f"copy_{e.entity}", f"Copy {_a(one)}", self._key() | copied, self._create())
        if e.key.form != "code":
            new = {
                f"new_{e.key.name}": Parameter({**e.key.schema, "description": f"New {_said(e.key.name)}"}, self._fresh)
            }
            yield self._draft("rename", f"rename_{e.entity}", f"Rename {_a(one)}", self._key() | new, update)
        yield self._draft("read", f"get_{e.entity}_status", f"Get the status of {_a(one)}", self._key(), get,
                          returns=["status"])  # fmt: skip
        status = Parameter({"type": "string", "enum": e.states, "description": "Status they have"},
                           lambda w: w.record["status"])  # fmt: skip
        yield self._draft("search", f"find_{e.plural}_by_status", f"Find {many} by status",
                          {"status": status} | limit(), find, filters=[["status", "status", "is"]])  # fmt: skip
        yield self._draft("groups", f"count_{e.plural}_by_status", f"Count the {many} in each status", {}, find,
                          by="status")  # fmt: skip
        for verb, state in e.steps.items():
            yield self._draft(
                "update_many", f"{verb}_{e.plural}",
                f"{_said(verb).capitalize()} several {many}; their status becomes {state}",
                keys, f"{verb}_{e.entity}", values={"status": state}, suits=_not_yet(state),
            )  # fmt: skip
        for word, values in self.fits.items():
            yield self._draft("search", f"find_{word}_{e.plural}", f"Find {word} {many}", limit(), find, values=values)
            yield self._draft("count", f"count_{word}_{e.plural}", f"Count {word} {many}", {}, find, values=values)
            if "status" in values:
                dry = {"dry_run": flag("Only list what would be deleted")}
                yield self._draft("purge", f"delete_{word}_{e.plural}", f"Delete all {word} {many}", dry, delete,
                                  values=values)  # fmt: skip
        yield from self._ends("", {})

    def _ends(self, word: str, values: Record) -> Iterator[Draft]:
        """The first and the last record by the first of its days, among those that `word` fits."""
        e = self.entry
        day = next((f.name for f in e.fields.values() if f.form in ("date", "day")), "")
        choices = [f for f in e.fields.values() if f.form == "enum"]
        for end, last in (("earliest", False), ("latest", True)) if day else ():
            yield self._draft(
                "search", f"get_{end}_{word}{e.entity}",
                f"Find the {_said(word)}{_said(e.entity)} with the {end} {_said(day)}",
                {f.name: held(f, False) for f in choices}, f"find_{word}{e.plural}", by=day, descending=last,
                values=values, filters=[[f.name, f.name, "is"] for f in choices], first=1,
            )  # fmt: skip

    def _of_field(self, f: Field) -> Iterator[Draft]:
        """Read, set, clear, shift, and change the items of one field."""
        e, one, label = self.entry, _a(_said(self.entry.entity)), _said(f.name)
        get, update, find = f"get_{e.entity}", self._update(), f"find_{e.plural}"
        if f.form == "boolean":
            yield self._draft("update", f"mark_{e.entity}_{f.name}", f"Record whether {one} is {label}",
                              self._key() | {f.name: new_value(f)}, update)  # fmt: skip
            return
        yield self._draft("read", f"get_{e.entity}_{f.name}", f"Get the {label} of {one}", self._key(), get,
                          returns=[f.name])  # fmt: skip
        yield self._draft("update", f"set_{e.entity}_{f.name}", f"Set the {label} of {one}",
                          self._key() | {f.name: new_value(f)}, update)  # fmt: skip
        if f.optional:
            yield self._draft("clear", f"clear_{e.entity}_{f.name}", f"Clear the {label} of {one}", self._key(), update,
                              by=f.name)  # fmt: skip
            yield self._draft(
                "search", f"find_{e.plural}_without_{f.name}", f"Find {_said(e.plural)} without {label}", limit(),
                find, filters=[[f.name, f.name, "lacks"]],
            )  # fmt: skip
        if f.form == "integer" and f.unit in COUNTED:
            for verb, sign in (("increase", 1), ("decrease", -1)):
                by = Parameter(
                    {"type": "integer", "minimum": 1, "description": f"By how much, in {f.unit}"}, lambda w: 1
                )
                yield self._draft(
                    "adjust", f"{verb}_{e.entity}_{f.name}", f"{verb.capitalize()} the {label} of {one}",
                    self._key() | {"by": by}, update, arguments={e.key.name: e.key.name, "by": f.name}, sign=sign,
                    suits=lambda r: r[f.name] > 0,
                )  # fmt: skip
        if f.form == "date":
            for verb, sign, how in (("postpone", 1, "later"), ("advance", -1, "earlier")):
                yield self._draft(
                    "shift", f"{verb}_{e.entity}_{f.name}", f"Move the {label} of {one} to a {how} day",
                    self._key() | {"days": whole(f"How many days {how}", 7, 1, 365, True)}, update,
                    by=f.name, sign=sign,
                )  # fmt: skip
        if f.form == "list":
            yield self._draft("length", f"count_{e.entity}_{f.name}", f"Count the {label} of {one}", self._key(), get,
                              by=f.name)  # fmt: skip
            item = singular(f.name)
            for verb, sign in (("add", 1), ("remove", -1)):
                kind = {**f.schema["items"], "description": f"{_said(item).capitalize()} to {verb}"}
                draw = (lambda w: f.draw(w.random)[0]) if sign > 0 else (lambda w: w.record[f.name][0])
                yield self._draft(
                    "item", f"{verb}_{e.entity}_{item}", f"{verb.capitalize()} one of the {label} of {one}",
                    self._key() | {item: Parameter(kind, draw)}, update, by=f.name, item=item, sign=sign,
                )  # fmt: skip

    def _searches(self, f: Field, word: str, values: Record) -> Iterator[Draft]:
        """Find records by one field, among those that `word` fits."""
        e, many = self.entry, f"{_said(word)}{_said(self.entry.plural)}"
        name, text, parent = f"find_{word}{e.plural}_by", f"Find {many} by", f"find_{word}{e.plural}"
        kind, label, unit = {"type": f.schema["type"]}, _said(f.name), f", in {f.unit}" if f.unit else ""
        if f.form in ("enum", "person", "name", "code", "email", "phone"):
            yield self._draft("search", f"{name}_{f.name}", f"{text} {label}", {f.name: held(f)} | limit(), parent,
                              values=values, filters=[[f.name, f.name, "is"]])  # fmt: skip
        if f.form in ("phrase", "text"):
            words = Parameter(
                {"type": "string", "description": f"Words in the {label}"}, lambda w: w.record[f.name][:4]
            )
            yield self._draft("search", f"search_{word}{e.plural}_by_{f.name}",
                              f"Search {many} by words in the {label}", {"words": words} | limit(), parent,
                              values=values, filters=[["words", f.name, "says"]])  # fmt: skip
        if f.form in ("integer", "number"):
            ends = {
                end: Parameter({**kind, "description": f"{end.capitalize()} {label}{unit}"},
                               lambda w: w.record[f.name], False) for end in ("minimum", "maximum")
            }  # fmt: skip
            yield self._draft(
                "search", f"{name}_{f.name}", f"Find {many} whose {label} lies between two values", ends | limit(),
                parent, values=values, filters=[["minimum", f.name, "from"], ["maximum", f.name, "until"]],
            )  # fmt: skip
            yield self._draft(
                "search", f"rank_{word}{e.plural}_by_{f.name}", f"List {many} in the order of their {label}",
                {"descending": flag("Largest first")} | limit(), parent, values=values, by=f.name,
            )  # fmt: skip
        if f.form in ("date", "day"):
            day = {
                end: Parameter({"type": "string", "format": "date", "description": f"{said} day"},
                               lambda w: w.record[f.name]) for end, said in (("from", "First"), ("until", "Last"))
            }  # fmt: skip
            yield self._draft(
                "search", f"{name}_{f.name}", f"Find {many} whose {label} lies in a period",
                {"period": nested(f"Days between which the {label} lies", day)} | limit(), parent, values=values,
                filters=[["period.from", f.name, "from"], ["period.until", f.name, "until"]],
            )  # fmt: skip
        if f.form == "list" and f.schema["items"]["type"] == "string":
            item = singular(f.name)
            kind = {**f.schema["items"], "description": f"{_said(item).capitalize()} to look for"}
            yield self._draft(
                "search", f"{name}_{item}", f"{text} one of their {label}",
                {item: Parameter(kind, lambda w: w.record[f.name][0])} | limit(), parent, values=values,
                filters=[[item, f.name, "has"]],
            )  # fmt: skip
        if f.form == "object" and "city" in f.schema["properties"]:
            city = "city" if f.name == "address" else f"{f.name}_city"
            kind = {"type": "string", "description": f"City or town of the {label}"}
            yield self._draft(
                "search", f"{name}_{city}", f"{text} the city of the {label}",
                {city: Parameter(kind, lambda w: w.record[f.name]["city"])} | limit(), parent, values=values,
                filters=[[city, f"{f.name}.city", "is"]],
            )  # fmt: skip

    def _measures(self, f: Field, word: str, values: Record) -> Iterator[Draft]:
        """Counts by value, sums, averages and extremes of one field, among the records that `word` fits."""
        e, many, label = self.entry, f"{_said(word)}{_said(self.entry.plural)}", _said(f.name)
        parent = f"find_{word}{e.plural}"
        if f.form in ("enum", "person", "name"):
            yield self._draft("groups", f"count_{word}{e.plural}_by_{f.name}", f"Count {many} for each {label}", {},
                              parent, by=f.name, values=values)  # fmt: skip
        if f.form in ("person", "name") and not f.name.endswith("s"):
            several = plural_of(f.name)
            yield self._draft("distinct", f"list_{word}{e.entity}_{several}",
                              f"List the distinct {_said(several)} of {many}", {}, parent, by=f.name,
                              values=values)  # fmt: skip
        if f.form in ("integer", "number") and f.unit:
            for measure in ("total", "average", "maximum", "minimum")[not _adds_up(f) :]:
                yield self._draft(
                    "measure", f"get_{measure}_{word}{e.entity}_{f.name}", f"Get the {measure} {label} of {many}",
                    {n: held(g, False) for n, g in e.fields.items() if g.form == "enum"}, parent, by=f.name,
                    measure=measure, values=values,
                    filters=[[n, n, "is"] for n, g in e.fields.items() if g.form == "enum"],
                )  # fmt: skip

    def _create(self) -> str:
        return f"{'create' if self.entry.key.form == 'code' else 'add'}_{self.entry.entity}"

    def _update(self) -> str:
        return f"update_{self.entry.entity}"

    def _key(self) -> dict[str, Parameter]:
        return {self.entry.key.name: Parameter(self.entry.key.schema, lambda w: w.key)}

    def _new_key(self) -> dict[str, Parameter]:
        return {self.entry.key.name: Parameter(self.entry.key.schema, self._fresh)}

    def _fresh(self, world: World) -> str:
        while (key := self.entry.key.draw(world.random)) in world.table:
            pass
        return str(key)

    def _names(self) -> dict[str, Parameter]:
        names = [*self.entry.fields, "status"]
        kind = {"type": "string", "enum": names}
        return {"fields": array(kind, "Fields to return; all if it is left out", lambda w: names[:2], False)}

    def _draft(
        self, kind: str, name: str, text: str, parameters: dict[str, Parameter], parent: str = "", *,
        suits: Callable[[Record], bool] | None = None, **operation: Any,
    ) -> Draft:  # fmt: skip
        e = self.entry
        first = {
            "kind": kind, "entity": e.entity, "key": e.key.name, "many": e.plural, "new": f"new_{e.key.name}",
            "arguments": {n: n for n in parameters}, "values": {}, "filters": [], "returns": [*e.fields, "status"],
            "sign": 1, "defaults": {"status": e.start}, "parent": parent,
        }  # fmt: skip
        tool = ToolSpec(
            name, text, object_schema(parameters), e.plural, e.category, "catalogue", first | operation, "train"
        )
        chosen = operation.get("values", {}) if kind in READS else {}
        return Draft(tool, {n: p.draw for n, p in parameters.items()}, suits or (lambda r: r.items() >= chosen.items()))


def _adds_up(f: Field) -> bool:
    """Whether a sum over records says something."""
    return f.unit in ADDITIVE and f.name not in ("price", "rate")


def _not_yet(state: str) -> Callable[[Record], bool]:
    return lambda record: record["status"] != state


def _said(name: str) -> str:
    return name.replace("_", " ")


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"
