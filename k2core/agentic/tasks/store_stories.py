"""Tasks over the tools of the catalogue, each in a store with a condition (`k2core.agentic.tools.store`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from k2core.agentic.catalogue.entries import Entry, catalogue
from k2core.agentic.domains.taxonomy import Domain, Draws, FieldSpec, Transition
from k2core.agentic.tasks.people import later
from k2core.agentic.tasks.script import Read, at
from k2core.agentic.tasks.story import Story
from k2core.agentic.tools.goals import Goal, draw_goal, quote
from k2core.agentic.tools.policy import SESSION, session
from k2core.agentic.tools.simulator import State
from k2core.agentic.tools.specs import ToolSpec

OPEN = {"person": "person", "name": "name", "phrase": "phrase", "text": "text", "code": "code", "phone": "digits"}
"""Forms of the catalogue's fields whose values tasks can draw, and their draw."""
RECORDS, PAGE = (3, 5), 2
WIDE = 40
"""A range of integers with values for both splits."""
SIMPLE = ("plain", "timeout", "late", "stale", "denied", "ambiguous")
"""Conditions for a call about one record."""


@dataclass(frozen=True)
class Shelf:
    """A domain of the catalogue with its tools that tasks can be about: of one record, of a list, of many records."""

    domain: Domain
    one: dict[str, ToolSpec]
    listing: list[ToolSpec]
    many: list[ToolSpec]


def shelves(tools: Mapping[str, ToolSpec], proposed: Sequence[Entry] = ()) -> list[Shelf]:
    """The domains of the catalogue, and those `proposed` beside it, that have such tools."""
    found, by_domain = list[Shelf](), dict[str, list[ToolSpec]]()
    for tool in tools.values():
        if tool.origin == "catalogue":
            by_domain.setdefault(tool.domain, []).append(tool)
    for entry in [*proposed, *catalogue()]:
        domain, own = as_domain(entry), by_domain.get(entry.plural, [])
        one = {tool.name: tool for tool in own if _of_one(tool, domain)}
        if one:
            listing = [tool for tool in own if tool.name == f"list_{entry.plural}"]
            many = [t for t in own if t.semantics["kind"] == "update_many" and _step(t, domain)]
            found.append(Shelf(domain, one, listing, many))
    return found


def _said(name: str) -> str:
    return name.replace("_", " ")


def as_domain(entry: Entry) -> Domain:
    """A domain of the catalogue with the fields whose values can be drawn and said."""
    fields = {entry.key.name: FieldSpec(open=OPEN[entry.key.form])}  # type: ignore[arg-type]
    for f in entry.fields.values():
        if f.form == "enum":
            fields[f.name] = FieldSpec(enum=f.schema["enum"])
        elif f.form == "integer" and f.schema["maximum"] - f.schema["minimum"] >= WIDE:
            fields[f.name] = FieldSpec(integer=(f.schema["minimum"], f.schema["maximum"]))
        elif f.form in OPEN:
            fields[f.name] = FieldSpec(open=OPEN[f.form])  # type: ignore[arg-type]
    fields["status"] = FieldSpec(enum=entry.states, internal=True)
    steps = [
        Transition(verb=verb, phrase=f"{_said(verb)} the {_said(entry.entity)} {{}}", field="status", value=state)
        for verb, state in entry.steps.items()
    ]
    return Domain(
        category=entry.category, domain=entry.plural, system=f"You look after {_said(entry.plural)}.",
        entity=entry.entity, plural=entry.plural, key=entry.key.name, fields=fields, transitions=steps,
    )  # fmt: skip


def _of_one(tool: ToolSpec, domain: Domain) -> bool:
    """Reads or sets one field of one record, or takes it a step."""
    operation, needed = tool.semantics, tool.parameters["required"]
    if operation["kind"] == "read":
        return needed == [domain.key] and len(operation["returns"]) == 1 and operation["returns"][0] in domain.fields
    if operation["kind"] != "update":
        return False
    if operation["values"]:
        return needed == [domain.key] and _step(tool, domain)
    fields = {*operation["arguments"].values()} - {domain.key}
    return len(needed) == len(operation["arguments"]) == 2 and fields <= {*domain.details}


def _step(tool: ToolSpec, domain: Domain) -> bool:
    return any(tool.semantics["values"] == {step.field: step.value} for step in domain.transitions)


def story(shelf: Shelf, draws: Draws) -> Story | None:
    """A story on the shelf, under a random condition; None if the tools do not suit it."""
    random = draws.random
    condition = random.choice((*SIMPLE, "pages", "partial"))
    count = random.randint(*RECORDS)
    state: State = {shelf.domain.entity: dict(shelf.domain.record(draws) for _ in range(count))}
    told = Told(shelf, draws, state, condition)
    made = told.pages() if condition == "pages" else told.partial() if condition == "partial" else told.single()
    if made is not None:
        state[SESSION] = session(condition=condition, **told.store)
    return made


@dataclass
class Told:
    """A story in the making. `store` is what belongs to the condition."""

    shelf: Shelf
    draws: Draws
    state: State
    condition: str

    def __post_init__(self) -> None:
        self.store: dict[str, Any] = {}

    @property
    def table(self) -> dict[str, dict[str, Any]]:
        return self.state[self.shelf.domain.entity]

    def single(self) -> Story | None:
        domain, tool = self.shelf.domain, self.draws.random.choice(list(self.shelf.one.values()))
        reads = tool.semantics["kind"] == "read"
        if (self.condition == "stale" and not reads) or (self.condition in ("late", "denied") and reads):
            return None
        goal = draw_goal(domain, tool, self.state, self.draws)
        key = goal.arguments[domain.key]
        if self.condition == "stale":
            old = domain.fields[goal.reads].draw(self.draws, other_than=self.table[key][goal.reads])
            self.store["old"] = {goal.reads: old}
        if self.condition == "denied":
            self.store["keys"] = [key]
            said = "permission denied"
            goal = replace(goal, answer=f"I could not do that: {said}.", facts=[key, said], mentions=[said])
        if self.condition == "ambiguous":
            return self._ambiguous(goal, key)
        return self._story([goal], goal.clause, goal.question)

    def _ambiguous(self, goal: Goal, key: str) -> Story | None:
        """The user says the first word of two keys, and which of them is meant once the agent asks."""
        first, _, rest = key.partition(" ")
        other = f"{first} {self.draws.values.made_up(self.draws.random)}"
        if not rest or other == key:
            return None
        self.table[other] = self.shelf.domain.record(self.draws)[1]
        asked = replace(
            goal, arguments=goal.arguments | {self.shelf.domain.key: first}, facts=sorted([key, other]), mentions=[],
            says={"thing": f"{_said(self.shelf.domain.entity)} {first}"}, reads="",
        )  # fmt: skip
        goals, which = [asked, replace(goal, heard=1)], later("which", self.draws.random, quote(key), "question")
        return self._story(goals, goal.clause.replace(quote(key), first), goal.question, [which])

    def pages(self) -> Story | None:
        if not self.shelf.listing:
            return None
        (tool,) = self.shelf.listing
        keys, goals = sorted(self.table), list[Goal]()
        for start in range(0, len(keys), PAGE):
            found = keys[start : start + PAGE]
            arguments = {"offset": Read(start, at(len(goals) - 1, "next"))} if goals else {}
            answer = f"I found {' and '.join(map(quote, found))}."
            goals.append(Goal(tool.name, arguments, "", True, answer, found, found, {"words": "found"}, "found"))
        self.store["size"] = PAGE
        return self._story(goals, f"which {_said(self.shelf.domain.plural)} are there", True)

    def partial(self) -> Story | None:
        if not self.shelf.many:
            return None
        tool, domain = self.draws.random.choice(self.shelf.many), self.shelf.domain
        step = next(step for step in domain.transitions if tool.semantics["values"] == {step.field: step.value})
        keys, many = list(self.table), tool.semantics["many"]
        for record in self.table.values():
            if record["status"] == step.value:
                record["status"] = next(value for value in domain.fields["status"].enum or () if value != step.value)
        failed = self.draws.random.sample(keys, 1)
        self.store["keys"] = failed
        thing = f"{_said(domain.plural)} {', '.join(map(quote, keys[:-1]))} and {quote(keys[-1])}"
        says = {"words": "states", "thing": thing, "value": step.value}
        answer = f"The {thing} are now {step.value}."
        goals = [
            Goal(tool.name, {many: keys}, "", False, "", failed, [], {}),
            Goal(tool.name, {many: Read(failed, at(0, "failed"))}, "", False, answer, [], [step.value], says),
        ]
        return self._story(goals, f"{_said(step.verb)} the {thing}", False)

    def _story(
        self, goals: list[Goal], clause: str, question: bool, turns: list[dict[str, str]] | None = None
    ) -> Story:
        needed = {tool.name: tool for tool in [*self.shelf.listing, *self.shelf.many] if tool.name == goals[0].tool}
        return Story(self.shelf.domain.domain, self.shelf.domain.system, self.shelf.one | needed, self.state, goals,
                     clause, question, later=turns or [])  # fmt: skip
