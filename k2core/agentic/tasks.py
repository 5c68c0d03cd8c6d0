"""Tasks: a system prompt × a set of tools × an instruction with a rubric that says when it is done (K2 §3.1).

Kinds, and what they need beyond one call:

- single: one call; some name an entity that does not exist, and the user must be told so;
- parallel: two independent wishes in one message, two calls in one turn;
- chain: the second call needs what the first returned;
- ask: the user leaves out a required value, which the agent must ask for;
- none: no declared tool can do it. The contrast to `single`: same words, other tools.

A rubric never names a path: it holds the end state, facts that a tool must have returned, what the answer must
mention, and how many calls the job needs at most.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from k2core.agentic.domains.taxonomy import Domain, Split, domains
from k2core.agentic.goals import Goal, draw_goal, draw_state, quote
from k2core.agentic.personas import Persona, personas
from k2core.agentic.simulator import State, apply, state_hash
from k2core.agentic.specs import ToolSpec

Task = dict[str, Any]
REFUSALS = ("I cannot do that: I have no tool for it.", "Sorry, none of my tools can do that.")
REFUSAL_WORDS = ["cannot", "can't", "unable", "no tool", "none of my tools"]
DIFFICULTY = {"single": 0, "none": 1, "ask": 1, "parallel": 2, "chain": 2}
LEVELS = ("easy", "medium", "hard")
DISTRACTORS = {0: 0.35, 1: 0.45, 2: 0.2}
NOT_FOUND_SHARE = 0.08
OTHER_DOMAIN_SHARE = 0.4
HELDOUT_TOOL_SHARE = 0.3
FAMILIES = {"get": "read", "find": "read", "create": "create", "delete": "delete", "update": "change", "adjust": "change"}


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


class TaskMaker:
    """Makes task number i of a split as a pure function of (seed, split, i) and the tools."""

    def __init__(self, tools: Mapping[str, ToolSpec], mix: Mapping[str, float], seed: int) -> None:
        self.mix, self.seed = dict(mix), seed
        self.tools = {name: tool for name, tool in tools.items() if tool.operation}
        self.by_domain = {
            split: {name: [t for t in self.tools.values() if t.domain == name and t.split == split] for name in domains()}
            for split in ("train", "heldout")
        }

    def task(self, split: Split, number: int) -> Task:
        """Task `number`. Held-out tasks have held-out names and values, and in part held-out tools."""
        random = Random(f"{self.seed}/task/{split}/{number}")
        kind = random.choices(list(self.mix), list(self.mix.values()))[0]
        plan = None
        while plan is None:  # a drawn domain may lack the tools that a kind needs
            domain = domains()[random.choice(list(domains()))]
            plan = self._plan(kind, domain, split, random)
        return self._write(f"{split}-{number:05}", kind, split, plan, random)

    def _tools(self, domain: Domain, split: Split, random: Random) -> list[ToolSpec]:
        heldout = self.by_domain["heldout"][domain.domain]
        if split == "heldout" and heldout and random.random() < HELDOUT_TOOL_SHARE:
            return heldout
        return self.by_domain["train"][domain.domain]

    def _plan(self, kind: str, domain: Domain, split: Split, random: Random) -> Plan | None:
        state = draw_state(domain, random, split)
        available = self._tools(domain, split, random)
        tool = random.choice(available)
        if kind == "single":
            able = (tool.operation or {})["kind"] not in ("create", "find")
            missing = able and random.random() < NOT_FOUND_SHARE
            return Plan(domain, state, [[draw_goal(domain, tool, state, random, split, missing=missing)]])
        if kind == "parallel":
            first = draw_goal(domain, tool, state, random, split)
            return self._second(domain, state, first, available, split, random)
        if kind == "chain":
            return self._chain(domain, state, split, random)
        goal = draw_goal(domain, tool, state, random, split)
        if kind == "none":
            return Plan(domain, state, [[goal]], refuse=True)
        if not goal.withheld:
            return None
        return Plan(domain, state, [[goal]], withheld=random.choice(list(goal.withheld)))

    def _second(
        self, domain: Domain, state: State, first: Goal, available: Sequence[ToolSpec], split: Split, random: Random
    ) -> Plan | None:
        """Another goal of the same mood about another entity."""
        tool = random.choice(available)
        if "find" in (self._kind(tool.name), self._kind(first.tool)):
            return None
        second = draw_goal(domain, tool, state, random, split, avoid=first.facts)
        return Plan(domain, state, [[first, second]]) if first.question == second.question else None

    def _kind(self, name: str) -> str:
        return (self.tools[name].operation or {})["kind"]

    def _chain(self, domain: Domain, state: State, split: Split, random: Random) -> Plan | None:
        """Read a field of one entity and give it to another."""
        available = self.by_domain["train"][domain.domain]
        readers = [t for t in available if (t.operation or {})["kind"] == "get"]
        writers = [
            t for t in available
            if (t.operation or {})["kind"] == "update" and not (t.operation or {})["values"]
            and {f for f in (t.operation or {})["arguments"].values() if f != domain.key}
        ]  # fmt: skip
        field_name = random.choice(list(domain.details))
        readers = [t for t in readers if field_name in (t.operation or {})["returns"]]
        writers = [t for t in writers if field_name in (t.operation or {})["arguments"].values()]
        table = state[domain.entity]
        if not readers or not writers or len(table) < 2:
            return None
        source, target = random.sample(list(table), 2)
        value = table[source][field_name]
        if value == table[target][field_name]:
            return None
        reader, writer, label = random.choice(readers), random.choice(writers), field_name.replace("_", " ")
        named = {key: f"{domain.entity} {quote(key)}" for key in (source, target)}
        names = [{behind: n for n, behind in (t.operation or {})["arguments"].items()} for t in (reader, writer)]
        clause = f"give the {named[target]} the same {label} as the {named[source]}"
        answer = f"The {label} of {quote(target)} is now {quote(value)}."
        read = Goal(reader.name, {names[0][domain.key]: source}, clause, False, answer, [source, str(value)], [])
        arguments = {names[1][domain.key]: target, names[1][field_name]: value}
        write = Goal(writer.name, arguments, clause, False, answer, [target, str(value)], [str(value)])
        return Plan(domain, state, [[read], [write]], instruction=clause, answer=answer)

    def _write(self, name: str, kind: str, split: Split, plan: Plan, random: Random) -> Task:
        goals = plan.goals
        persona_name = random.choice(list(personas()))
        persona = personas()[persona_name]
        declared = self._declare(plan, split, random)
        calls = [
            {"name": goal.tool, "arguments": goal.arguments, "turn": turn}
            for turn, group in enumerate(plan.turns) for goal in group
        ] if not plan.refuse else []  # fmt: skip
        after = [plan.state]
        for turn in range(len(plan.turns) if not plan.refuse else 0):
            after.append(copy.deepcopy(after[-1]))
            for call in calls:
                if call["turn"] == turn:
                    apply(self.tools[call["name"]].operation or {}, call["arguments"], after[-1])
        families = {FAMILIES[self._kind(goal.tool)] for goal in goals} | {"read"}
        useful = [tool for tool in declared if FAMILIES[self._kind(tool)] in families]
        answer = plan.answer or " ".join(dict.fromkeys(goal.answer for goal in goals))
        answer = random.choice(REFUSALS) if plan.refuse else answer
        task: Task = {
            "id": name, "split": split, "kind": kind, "difficulty": difficulty(kind, len(declared), plan),
            "domain": plan.domain.domain, "system": plan.domain.system, "tools": declared, "persona": persona_name,
            "instruction": _instruction(plan, persona, random), "follow_up": None, "initial_state": plan.state,
            "rubric": rubric(plan, len(calls), state_hash(after[-1]), useful), "gold_calls": calls, "gold_answer": answer,
            "gold_question": None,
        }  # fmt: skip
        direct = [call for call in calls if call["turn"] == 0]
        task["first_turn"] = {
            "calls": direct, "state": state_hash(after[1] if direct else plan.state), "says": [],
            "facts": [goal.facts for goal in plan.turns[0]] if direct else [], "tools": useful if direct else [],
        }  # fmt: skip
        if plan.refuse:
            task["first_turn"]["says"] = REFUSAL_WORDS
        if plan.withheld:
            _, label, said = goals[0].withheld[plan.withheld]
            task["follow_up"] = persona.say("detail", said, random)
            task["gold_question"] = f"Which {label}?"
            labels = list(dict.fromkeys([label, plan.withheld.replace("_", " ")]))
            task["first_turn"] = {"calls": [], "state": state_hash(plan.state), "says": labels, "facts": [], "tools": []}
            task["rubric"].append({"check": "asks", "any": labels})
        return task

    def _declare(self, plan: Plan, split: Split, random: Random) -> list[str]:
        """The tools a task declares: those its gold calls use (none if it is to be refused) and distractors."""
        needed = list(dict.fromkeys(goal.tool for goal in plan.goals))
        pool = self.by_domain["train"][plan.domain.domain]
        if plan.refuse and random.random() < OTHER_DOMAIN_SHARE:
            pool = self.by_domain["train"][random.choice([n for n in domains() if n != plan.domain.domain])]
        served = [self.tools[name] for name in needed]
        free = [tool for tool in pool if not any(could_serve(tool, other) for other in served)]
        count = max(int(plan.refuse), random.choices(list(DISTRACTORS), list(DISTRACTORS.values()))[0])
        chosen = [tool.name for tool in random.sample(free, min(count, len(free)))]
        declared = chosen if plan.refuse else [*needed, *chosen]
        random.shuffle(declared)
        return declared


def could_serve(tool: ToolSpec, other: ToolSpec) -> bool:
    """Whether `tool` might do what `other` does: same domain, same family of operations, a field in common."""
    mine, theirs = tool.operation or {}, other.operation or {}
    if tool.domain != other.domain or FAMILIES[mine["kind"]] != FAMILIES[theirs["kind"]]:
        return False
    return FAMILIES[mine["kind"]] != "change" or bool(_touched(mine) & _touched(theirs))


def _touched(operation: dict[str, Any]) -> set[str]:
    return {*operation["arguments"].values(), *operation["values"]} - {operation["key"]}


def difficulty(kind: str, declared: int, plan: Plan) -> str:
    """easy, medium or hard: by the kind, with one step up for tools to choose among."""
    return LEVELS[min(2, DIFFICULTY[kind] + (declared > 1 + (len(plan.goals) > 1)))]


def rubric(plan: Plan, calls: int, end_state: str, useful: list[str]) -> list[dict[str, Any]]:
    """The checks of a whole dialogue; `k2core.agentic.judge` carries them out.

    Args:
        calls: how many the job needs.
        useful: declared tools of the families that the goals need, and all that only read.
    """
    checks: list[dict[str, Any]] = [{"check": "valid_calls"}, {"check": "state", "hash": end_state}]
    checks.append({"check": "calls", "at_most": calls})
    if plan.refuse:
        return [*checks, {"check": "refuses", "any": REFUSAL_WORDS}]
    checks.append({"check": "tools", "only": useful})
    checks.append({"check": "facts", "each": [goal.facts for goal in plan.goals]})
    return [*checks, {"check": "mentions", "all": [word for goal in plan.goals for word in goal.mentions]}]


def _instruction(plan: Plan, persona: Persona, random: Random) -> str:
    goals = plan.goals
    if plan.withheld:
        clause = goals[0].withheld[plan.withheld][0]
    else:
        clause = plan.instruction or " and ".join(goal.clause for goal in goals)
    return persona.say("question" if goals[0].question else "wish", clause, random)


def first_prompt(task: Task) -> list[dict[str, str]]:
    """The messages before the agent's first reply."""
    return [{"role": "system", "content": task["system"]}, {"role": "user", "content": task["instruction"]}]


def gold_reply(task: Task) -> dict[str, Any]:
    """One right first reply of the agent, in OpenAI's format."""
    calls = task["first_turn"]["calls"]
    if not calls:
        return {"role": "assistant", "content": task["gold_question"] or task["gold_answer"]}
    return {"role": "assistant", "content": "", "tool_calls": [
        {"id": f"functions.{call['name']}:{i}", "type": "function", "function": {
            "name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
        for i, call in enumerate(calls)
    ]}  # fmt: skip
