"""Tasks over worlds: records that links lead to, rules that forbid, and people who do not stop at one sentence.

Kinds:

- steps: a chain of calls, each of which needs what the one before returned; its length is drawn by `Calls`;
- branch: "… if the X is …, else …": what is to be done hangs on a value that only a call shows;
- allowed, forbidden, rights: a wish that the policy may forbid: it does not; it does; it does to this user;
- insist: the same, forbidden or without rights, and the user asks again after the refusal;
- mind: after the answer, the user wants another value;
- correct: after the answer, the user meant another record;
- stop: asked for the value that is missing, the user gives up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from k2core.agentic.domains.taxonomy import Draws
from k2core.agentic.tasks.people import later
from k2core.agentic.tasks.script import Read, Text, at, gold
from k2core.agentic.tasks.story import Story
from k2core.agentic.tools.goals import Goal, draw_goal, quote
from k2core.agentic.tools.policy import SESSION, broken, holds, operand, session
from k2core.agentic.tools.simulator import State
from k2core.agentic.tools.specs import ToolSpec
from k2core.agentic.worlds.world import World

FILLERS = 2
"""Records of each table that no wish is about."""
HOP_SHARE = 0.3
"""Share of branches and policed wishes about a record that another one leads to."""


@dataclass
class Scene:
    """A world in the making, and the calls of a wish so far."""

    world: World
    tools: Mapping[str, ToolSpec]
    draws: Draws
    state: State = field(init=False)
    goals: list[Goal] = field(default_factory=list)
    looks: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = {table: {} for table in self.world.tables}

    @property
    def random(self) -> Random:
        return self.draws.random

    def add(self, table: str) -> str:
        """A new record, its links open; the key."""
        while True:
            key, record = self.world.tables[table].record(self.draws)
            if key not in self.state[table]:
                self.state[table][key] = record
                return key

    def fill(self) -> None:
        """More records, to which all open links lead."""
        fillers = {table: [self.add(table) for _ in range(FILLERS)] for table in self.state}
        for table, records in self.state.items():
            for key, record in records.items():
                for name, target in self.world.links(table).items():
                    record.setdefault(name, self.random.choice([k for k in fillers[target] if k != key]))

    def route(self, hops: int) -> tuple[str, Any, str] | None:
        """Make records that are linked in a row, and the calls along them; the last one's table, key and words.

        A hop follows a link, or looks for the record that has one to here. None if there is nowhere to go.
        """
        table = self.random.choice(list(self.world.tables))
        key, legs, last = self.add(table), [], None
        place: Any = key
        words = f"the {table} {quote(key)}"
        for _ in range(hops):
            ways = [(name, table, target, False) for name, target in self.world.links(table).items()]
            for other in self.world.tables:
                names = [name for name, target in self.world.links(other).items() if target == table]
                if other != table and len(names) == 1:
                    ways.append((names[0], other, other, True))
            ways = [way for way in ways if last is None or way[:2] != last[:2] or way[3] == last[3]]
            if not ways:
                return None
            last = name, _, target, back = self.random.choice(ways)
            new = self.add(target)
            if back:
                self.state[target][new][name] = key
            else:
                self.state[table][key][name] = new
            legs.append((table, name, target, new, back))
            table, key = target, new
        self.fill()
        for holder, name, target, new, back in legs:
            if back:
                place = self._found(f"find_{self.world.tables[target].plural}_by_{name}", name, place, new)
            else:
                place = self.read(holder, place, name)
            words = f"the {target if back else name} of {words}"
        return table, place, words

    def read(self, table: str, key: Any, name: str, needed: bool = True) -> Read:
        """The value of a field, as the call shows that reads the record.

        Args:
            needed: the rubric asks that this was read.
        """
        record = str(gold(key))
        if (table, record) not in self.looks:
            self.looks[table, record] = len(self.goals)
            arguments = {self.world.tables[table].key: key}
            self.goals.append(_look(f"get_{table}", arguments, {"thing": _thing(table, key)}))
        number, value = self.looks[table, record], self.state[table][record][name]
        if needed:
            self.goals[number].facts.extend([record, str(value)])
        return Read(value, at(number, name))

    def _found(self, tool: str, name: str, key: Any, found: str) -> Read:
        self.goals.append(replace(_look(tool, {name: key}, {}), facts=[found]))
        return Read(found, at(len(self.goals) - 1, "found", 0))

    def wish(self, tool: ToolSpec, table: str, key: Any, words: str) -> Goal:
        """A goal of `tool` about the record, which the user calls `words`."""
        domain, record = self.world.tables[table], str(gold(key))
        others = [other for other in self.state[table] if other != record]
        drawn = draw_goal(domain, tool, self.state, self.draws, avoid=others)
        if not isinstance(key, Read):
            return drawn
        says = {"thing": _thing(table, key), "key": key}
        return replace(
            drawn, arguments=drawn.arguments | {domain.key: key},
            clause=drawn.clause.replace(f"the {table} {quote(record)}", words),
            says=drawn.says | {name: value for name, value in says.items() if name in drawn.says},
        )  # fmt: skip

    def changes(self, table: str, ruled: bool) -> list[ToolSpec]:
        """The tools that change a record, with or without rules."""
        own = [tool for tool in self.tools.values() if tool.semantics["entity"] == table]
        changing = [tool for tool in own if tool.semantics["kind"] in ("update", "adjust")]
        return [tool for tool in changing if bool(tool.semantics.get("rules")) == ruled]

    def speak(self, me: str) -> None:
        """Say whom the agent talks to."""
        self.state[SESSION] = session(me)

    def policed(self, tool: ToolSpec, table: str, key: Any, goal: Goal, wanted: str) -> Goal | None:
        """The goal with the rules that an agent must look at first; None if the outcome is not the wanted one."""
        operation, arguments = tool.semantics, gold(goal.arguments)
        people = list(self.state[self.world.me])
        for me in self.random.sample(people, len(people)):
            self.speak(me)
            against = broken(operation, arguments, self.state)
            kinds = {"rights" if "$me" in str(rule["when"]) else "forbidden" for rule in against}
            if (kinds or {"allowed"}) == {wanted}:
                unless = [
                    rule for each in operation["rules"]
                    if (rule := self._rule(each, table, key, arguments, not against or each == against[0]))
                ]  # fmt: skip
                return replace(goal, unless=unless)
        return None

    def _rule(
        self, rule: dict[str, Any], table: str, key: Any, arguments: dict[str, Any], needed: bool
    ) -> dict[str, Any] | None:
        """A rule over what is said and read; None if what is said alone shows that it does not apply."""

        def value(path: str) -> Any:
            if path == "me":
                return self.state[SESSION]["user"]["me"]
            if path in arguments:
                return arguments[path]
            here, place = table, key
            *links, name = path.split(".")
            for link in links:
                here, place = self.world.links(here)[link], self.read(here, place, link, needed)
            return self.read(here, place, name, needed)

        when = []
        for path, test, right in rule["when"]:
            when.append([value(path), test, operand(right, value)])
            if path in arguments and not isinstance(when[-1][2], Read) and not holds(when[-1:], gold):
                return None
        return {"when": when, "says": {"words": "forbidden", "rule": rule["says"]}}

    def story(self, clause: str, **more: Any) -> Story:
        """What has come together."""
        if SESSION not in self.state:
            self.speak(self.random.choice(list(self.state[self.world.me])))
        speaker = f"You talk to the {self.world.me} {self.state[SESSION]['user']['me']}."
        return Story(self.world.world, self.world.system, dict(self.tools), self.state, self.goals, clause,
                     speaker=speaker, **more)  # fmt: skip


def steps(scene: Scene, calls: int) -> Story | None:
    if (found := scene.route(scene.random.randint(max(1, calls - 3), calls - 1))) is None:
        return None
    table, key, words = found
    if question := scene.random.random() < 0.5:
        goal: Goal | None = scene.wish(scene.tools[f"get_{table}"], table, key, words)
    else:
        goal = _change(scene, table, key, words, scene.random.random() < 0.5, "allowed")
    if goal is None or len(scene.goals) != calls - 1:
        return None
    scene.goals.append(goal)
    return scene.story(goal.clause, question=question)


def branch(scene: Scene, calls: int) -> Story | None:
    if (found := scene.route(int(scene.random.random() < HOP_SHARE))) is None:
        return None
    table, key, words = found
    tools = scene.changes(table, ruled=False)
    if len(tools) < 2:
        return None
    pair = scene.random.sample(tools, 2)
    touched = [{*tool.semantics["arguments"].values(), *tool.semantics["values"]} for tool in pair]
    fields = scene.world.tables[table].fields
    free = [n for n, spec in fields.items() if n not in touched[0] | touched[1] and (spec.enum or spec.integer)]
    if len(touched[0] & touched[1]) > 1 or not free:  # they share the key alone
        return None
    then, other = (scene.wish(tool, table, key, words) for tool in pair)
    name = scene.random.choice(free)
    read = scene.read(table, key, name)
    value = read.value if scene.random.random() < 0.5 else fields[name].draw(scene.draws, other_than=read.value)
    scene.goals += [
        replace(goal, unless=[{"when": [[read, test, [value]]], "says": {}}])
        for goal, test in ((then, "not_in"), (other, "in"))
    ]
    again = other.clause.replace(words, f"the {table}")
    return scene.story(f"{then.clause} if the {name} is {quote(value)}, else {again}")


def policed(wanted: str) -> Callable[[Scene, int], Story | None]:
    def draw(scene: Scene, calls: int) -> Story | None:
        if (found := scene.route(int(scene.random.random() < HOP_SHARE))) is None:
            return None
        goal = _change(scene, *found, True, wanted)
        if goal is None:
            return None
        scene.goals.append(goal)
        return scene.story(goal.clause)

    return draw


def insist(scene: Scene, calls: int) -> Story | None:
    story = policed(scene.random.choice(["forbidden", "rights"]))(scene, calls)
    return story and replace(story, later=[later("insist", scene.random)])


def mind(scene: Scene, calls: int) -> Story | None:
    if (found := scene.route(0)) is None:
        return None
    table, key, words = found
    tools = [tool for tool in scene.changes(table, ruled=False) if len(tool.parameters["required"]) == 2]
    tools = [tool for tool in tools if tool.semantics["kind"] == "update"]
    if not tools:
        return None
    tool = scene.random.choice(tools)
    first, second = (scene.wish(tool, table, key, words) for _ in range(2))
    (name,) = [each for each in first.arguments if each != scene.world.tables[table].key]
    if first.arguments[name] == second.arguments[name]:
        return None
    scene.goals += [first, replace(second, heard=1)]
    return scene.story(first.clause, later=[later("mind", scene.random, quote(second.arguments[name]))])


def correct(scene: Scene, calls: int) -> Story | None:
    table = scene.random.choice(list(scene.world.tables))
    keys = [scene.add(table) for _ in range(2)]
    scene.fill()
    named = [f"the {table} {quote(key)}" for key in keys]
    first, second = (
        scene.wish(scene.tools[f"get_{table}"], table, key, words) for key, words in zip(keys, named, strict=True)
    )
    if first.reads != second.reads:
        return None
    scene.goals += [first, replace(second, heard=1)]
    return scene.story(first.clause, question=True, later=[later("correct", scene.random, named[1])])


def stop(scene: Scene, calls: int) -> Story | None:
    if (found := scene.route(0)) is None or not (tools := scene.changes(found[0], ruled=False)):
        return None
    goal = scene.wish(scene.random.choice(tools), *found)
    if not goal.withheld:
        return None
    scene.goals.append(goal)
    return scene.story(
        "", withheld=scene.random.choice(list(goal.withheld)), later=[later("stop", scene.random, after="question")]
    )


KINDS: dict[str, Callable[[Scene, int], Story | None]] = {
    "steps": steps, "branch": branch, "allowed": policed("allowed"), "forbidden": policed("forbidden"),
    "rights": policed("rights"), "insist": insist, "mind": mind, "correct": correct, "stop": stop,
}  # fmt: skip


def _change(scene: Scene, table: str, key: Any, words: str, ruled: bool, wanted: str) -> Goal | None:
    if not (tools := scene.changes(table, ruled)):
        return None
    tool = scene.random.choice(tools)
    goal = scene.wish(tool, table, key, words)
    return scene.policed(tool, table, key, goal, wanted) if ruled else goal


def _look(tool: str, arguments: dict[str, Any], says: dict[str, Any]) -> Goal:
    return Goal(tool, arguments, "", True, "", [], [], says)


def _thing(table: str, key: Any) -> Any:
    return Text(f"{table} {{}}", (key,)) if isinstance(key, Read) else f"{table} {quote(key)}"
