"""What a task is about, before it is written down: its world and, by kind, the goals of each turn.

Kinds:

- single: one call; some name an entity that does not exist, and the user must be told so;
- parallel: two independent wishes in one message, two calls in one turn;
- chain: the second call needs what the first returned;
- ask: the user leaves out a required value, which the agent must ask for;
- none: no declared tool can do it. The contrast to `single`: same words, other tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k2core.agentic.domains.taxonomy import Domain, Draws, Split, domains
from k2core.agentic.tasks.script import Read, at
from k2core.agentic.tools.goals import Goal, draw_goal, draw_state, quote
from k2core.agentic.tools.simulator import State
from k2core.agentic.tools.specs import ToolSpec

KINDS = ("single", "parallel", "chain", "ask", "none")
NOT_FOUND_SHARE = 0.08
HELDOUT_TOOL_SHARE = 0.3
FAMILIES = {
    "get": "read", "find": "read", "create": "create", "delete": "delete", "update": "change", "adjust": "change",
}  # fmt: skip


@dataclass
class Plan:
    """What a task is about before it is written down: its world, its turns of goals, and special circumstances."""

    domain: Domain
    state: State
    turns: list[list[Goal]]
    withheld: str | None = None
    refuse: bool = False
    instruction: str | None = None
    answer: str | None = None

    @property
    def goals(self) -> list[Goal]:
        """All goals in order."""
        return [goal for turn in self.turns for goal in turn]


class Planner:
    """Draws plans over the tools of a split."""

    def __init__(self, tools: Mapping[str, ToolSpec]) -> None:
        self.by_domain: dict[Split, dict[str, list[ToolSpec]]] = {
            split: {n: [t for t in tools.values() if (t.domain, t.split) == (n, split)] for n in domains()}
            for split in ("train", "heldout")
        }

    def plan(self, kind: str, draws: Draws) -> Plan:
        """A plan of `kind` in a random domain; held-out plans use held-out values and, in part, held-out tools."""
        drawn = None
        while drawn is None:  # a drawn tool may not suit the kind
            drawn = self._plan(kind, domains()[draws.random.choice(list(domains()))], draws)
        return drawn

    def _tools(self, domain: Domain, draws: Draws) -> list[ToolSpec]:
        heldout = self.by_domain["heldout"][domain.domain]
        if draws.split == "heldout" and heldout and draws.random.random() < HELDOUT_TOOL_SHARE:
            return heldout
        return self.by_domain["train"][domain.domain]

    def _plan(self, kind: str, domain: Domain, draws: Draws) -> Plan | None:
        state = draw_state(domain, draws)
        available = self._tools(domain, draws)
        tool = draws.random.choice(available)
        if kind == "single":
            able = tool.semantics["kind"] not in ("create", "find")
            missing = able and draws.random.random() < NOT_FOUND_SHARE
            return Plan(domain, state, [[draw_goal(domain, tool, state, draws, missing=missing)]])
        if kind == "parallel":
            first = draw_goal(domain, tool, state, draws)
            return self._second(domain, state, first, available, draws)
        if kind == "chain":
            return self._chain(domain, state, draws)
        goal = draw_goal(domain, tool, state, draws)
        if kind == "none":
            return Plan(domain, state, [[goal]], refuse=True)
        if not goal.withheld:
            return None
        return Plan(domain, state, [[goal]], withheld=draws.random.choice(list(goal.withheld)))

    def _second(
        self, domain: Domain, state: State, first: Goal, available: Sequence[ToolSpec], draws: Draws
    ) -> Plan | None:
        """Another goal of the same mood about another entity; a twin of the first tool is not used beside it."""
        tool, first_tool = draws.random.choice(available), next(t for t in available if t.name == first.tool)
        if could_serve(tool, first_tool):
            tool = first_tool
        if "find" in (tool.semantics["kind"], first_tool.semantics["kind"]):
            return None
        second = draw_goal(domain, tool, state, draws, avoid=first.facts)
        return Plan(domain, state, [[first, second]]) if first.question == second.question else None

    def _chain(self, domain: Domain, state: State, draws: Draws) -> Plan | None:
        """Read a field of one entity and give it to another."""
        available = self.by_domain["train"][domain.domain]
        readers = [t for t in available if t.semantics["kind"] == "get"]
        writers = [
            t for t in available
            if t.semantics["kind"] == "update" and not t.semantics["values"]
            and {f for f in t.semantics["arguments"].values() if f != domain.key}
        ]  # fmt: skip
        field_name = draws.random.choice(list(domain.details))
        readers = [t for t in readers if field_name in t.semantics["returns"]]
        writers = [t for t in writers if field_name in t.semantics["arguments"].values()]
        table = state[domain.entity]
        if not readers or not writers or len(table) < 2:
            return None
        source, target = draws.random.sample(list(table), 2)
        value = table[source][field_name]
        if value == table[target][field_name]:
            return None
        reader, writer, label = draws.random.choice(readers), draws.random.choice(writers), field_name.replace("_", " ")
        named = {key: f"{domain.entity} {quote(key)}" for key in (source, target)}
        names = [{behind: n for n, behind in t.semantics["arguments"].items()} for t in (reader, writer)]
        clause = f"give the {named[target]} the same {label} as the {named[source]}"
        answer = f"The {label} of {quote(target)} is now {quote(value)}."
        read = Goal(reader.name, {names[0][domain.key]: source}, clause, False, answer, [source, str(value)], [],
                    {"thing": named[source]}, field_name)  # fmt: skip
        arguments = {names[1][domain.key]: target, names[1][field_name]: Read(value, at(0, field_name))}
        says = {"words": "changed", "thing": named[target], "label": label, "key": quote(target)}
        facts, mentions = [target, str(value)], [str(value)]
        write = Goal(writer.name, arguments, clause, False, answer, facts, mentions, says, field_name)
        return Plan(domain, state, [[read], [write]], instruction=clause, answer=answer)


def family(tool: ToolSpec) -> str:
    """read, create, delete or change."""
    return FAMILIES[tool.semantics["kind"]]


def could_serve(tool: ToolSpec, other: ToolSpec) -> bool:
    """Whether `tool` might do what `other` does: same domain, same family of operations, a field in common."""
    if tool.domain != other.domain or family(tool) != family(other):
        return False
    return family(tool) != "change" or bool(_touched(tool.semantics) & _touched(other.semantics))


def _touched(operation: dict[str, Any]) -> set[str]:
    return {*operation["arguments"].values(), *operation["values"]} - {operation["key"]}
