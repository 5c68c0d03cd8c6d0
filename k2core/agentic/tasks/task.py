"""Tasks: a system prompt × a set of tools × an instruction with a rubric that says when it is done (K2 §3.1).

A rubric never names a path: it holds the end state, facts that a tool must have returned, what the answer must
mention, and how many calls the job needs at most. `k2core.agentic.tasks.plans` has the kinds of tasks.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from k2core.agentic.domains.taxonomy import Draws, Split, domains
from k2core.agentic.tasks.personas import Persona, heldout_personas, personas
from k2core.agentic.tasks.plans import Plan, Planner, could_serve, family
from k2core.agentic.tasks.script import at, gold, stated
from k2core.agentic.tools.goals import Goal
from k2core.agentic.tools.simulator import apply, state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.synthesis.values import Values

Task = dict[str, Any]
REFUSALS = ("I cannot do that: I have no tool for it.", "I cannot do that: none of my tools can.")
DELETION_WORDS = ["deleted", "removed", "gone", "cancelled", "canceled", "erased", "cleared", "no longer"]
REFUSAL_WORDS = ["cannot", "can't", "unable", "no tool", "none of my tools"]
DIFFICULTY = {"single": 0, "none": 1, "ask": 1, "parallel": 2, "chain": 2}
LEVELS = ("easy", "medium", "hard")
DISTRACTORS = {0: 0.4, 1: 0.45, 2: 0.15}
OTHER_DOMAIN_SHARE = 0.4
TWIN, TWIN_ASKS = "+", 0.5
"""What stands in a twin's id behind that of its task; the share of creating tasks whose twin lacks a value."""
MAX_ANSWER = 160
HELDOUT_PERSONA_SHARE = 0.2


class TaskMaker:
    """Makes task number i of a split as a pure function of (seed, split, i), the tools and the open values.

    Args:
        declared_share: share of the tasks that also offer a tool of the catalogue or of the folder of declarations.
    """

    def __init__(
        self, tools: Mapping[str, ToolSpec], mix: Mapping[str, float], seed: int, declared_share: float = 0.0,
        values: Values | None = None,
    ) -> None:  # fmt: skip
        self.mix, self.seed, self.declared_share = dict(mix), seed, declared_share
        self.values = values or Values()
        self.declared = [tool for tool in tools.values() if tool.origin.startswith(("declared:", "catalogue"))]
        self.tools = {name: tool for name, tool in tools.items() if tool.operation and tool.origin != "catalogue"}
        self.planner = Planner(self.tools)

    def task(self, split: Split, number: int) -> Task:
        """Task `number`. Held-out tasks have held-out names and values, and in part held-out tools and personas."""
        kind, plan, random = self._plan(split, number)
        return self._write(f"{split}-{number:05}", kind, split, plan, random)

    def twins(self, count: int, share: float) -> list[Task]:
        """The twins that the first `count` training tasks have."""
        return [twin for number in range(count) if (twin := self.twin(number, share))]

    def twin(self, number: int, share: float) -> Task | None:
        """Training task `number` once more, so that one thing forbids its call; None if it is not among the share.

        Only tasks of the kind single have a twin. Its kind is `none`, with a tool that cannot do it in the place of the
        one that can and the rest as it is; or, for half of the tasks that create something, `ask`: a value is left out.
        No other cue tells the two apart, neither words nor the number of tools.
        """
        choice = Random(f"{self.seed}/twin/{number}")
        if choice.random() >= share:
            return None
        kind, plan, random = self._plan("train", number)
        if kind != "single":
            return None
        name, (goal,) = f"train-{number:05}", plan.goals
        if goal.withheld and family(self.tools[goal.tool]) == "create" and choice.random() < TWIN_ASKS:
            asks = replace(plan, withheld=choice.choice(list(goal.withheld)))
            return self._write(f"{name}{TWIN}ask", "ask", "train", asks, random)
        single = self._write(name, kind, "train", plan, random)
        refused = replace(plan, refuse=True)
        unfit = self._unfit(refused, choice, 1, besides=single["tools"])
        declared = [unfit[0] if tool == goal.tool else tool for tool in single["tools"]]
        twin = self._write(f"{name}{TWIN}none", "none", "train", refused, choice, declared)
        return {**twin, "persona": single["persona"], "instruction": single["instruction"]}

    def _plan(self, split: Split, number: int) -> tuple[str, Plan, Random]:
        """The kind and the plan of task `number`, and the stream that goes on from there."""
        random = Random(f"{self.seed}/task/{split}/{number}")
        kind = random.choices(list(self.mix), list(self.mix.values()))[0]
        return kind, self.planner.plan(kind, Draws(random, split, self.values)), random

    def _write(
        self, name: str, kind: str, split: Split, plan: Plan, random: Random, declared: list[str] | None = None
    ) -> Task:
        persona_name, persona = random.choice(list(personas().items()))
        apart = Random(
            f"{self.seed}/persona/{name}"
        )  # a stream of its own: the tasks of seen personas stay as they are
        if split == "heldout" and apart.random() < HELDOUT_PERSONA_SHARE:
            persona_name, persona = apart.choice(list(heldout_personas().items()))
        declared = declared or self._declare(plan, random)
        calls = [
            {"name": goal.tool, "arguments": gold(goal.arguments), "turn": turn}
            for turn, group in enumerate(plan.turns) for goal in group
        ] if not plan.refuse else []  # fmt: skip
        states = self._states(plan, calls)
        useful = self._useful(plan, declared)
        answer = plan.answer or " ".join(dict.fromkeys(goal.answer for goal in plan.goals))
        task: Task = {
            "id": name, "split": split, "kind": kind, "difficulty": difficulty(kind, len(declared), plan),
            "domain": plan.domain.domain, "system": plan.domain.system, "tools": declared, "persona": persona_name,
            "instruction": _instruction(plan, persona, random), "follow_up": None, "goal": script(plan),
            "initial_state": plan.state,
            "rubric": rubric(plan, len(calls), states[-1], useful), "gold_calls": calls,
            "gold_answer": random.choice(REFUSALS) if plan.refuse else answer, "gold_question": None,
        }  # fmt: skip
        quiet = {"calls": [], "state": states[0], "facts": [], "tools": []}
        if plan.refuse:
            task["first_turn"] = {**quiet, "says": REFUSAL_WORDS}
        elif plan.withheld:
            _, label, said = plan.goals[0].withheld[plan.withheld]
            labels = list(dict.fromkeys([label, plan.withheld.replace("_", " ")]))
            task["follow_up"], task["gold_question"] = persona.say("detail", said, random), f"Which {label}?"
            task["rubric"].append({"check": "asks", "any": labels})
            task["first_turn"] = {**quiet, "says": labels}
        else:
            direct = [call for call in calls if call["turn"] == 0]
            facts = [goal.facts for goal in plan.turns[0]]
            task["first_turn"] = {"calls": direct, "state": states[1], "facts": facts, "tools": useful, "says": []}
        return task

    def _states(self, plan: Plan, calls: list[dict[str, Any]]) -> list[str]:
        """Digests of the world before the first turn and after each, if it goes well."""
        state = copy.deepcopy(plan.state)
        digests = [state_hash(state)]
        for turn in range(len(plan.turns)):
            for call in calls:
                if call["turn"] == turn:
                    apply(self.tools[call["name"]].semantics, call["arguments"], state)
            digests.append(state_hash(state))
        return digests

    def _useful(self, plan: Plan, declared: list[str]) -> list[str]:
        """The declared tools of the families that the goals need, and all that only read."""
        families = {family(self.tools[goal.tool]) for goal in plan.goals} | {"read"}
        return [name for name in declared if name in self.tools and family(self.tools[name]) in families]

    def _declare(self, plan: Plan, random: Random) -> list[str]:
        """The tools a task declares: those its gold calls use, or one that cannot do it, and distractors."""
        needed = [] if plan.refuse else list(dict.fromkeys(goal.tool for goal in plan.goals))
        more = random.choices(list(DISTRACTORS), list(DISTRACTORS.values()))[0]
        declared = [*needed, *self._unfit(plan, random, more + int(plan.refuse))]
        if self.declared and not plan.refuse and random.random() < self.declared_share:
            declared += self._foreign(plan, random)
        random.shuffle(declared)
        return declared

    def _unfit(self, plan: Plan, random: Random, count: int, besides: Collection[str] = ()) -> list[str]:
        """At most `count` tools that serve no goal; of another domain now and then if the task is to be refused."""
        pool = self.planner.by_domain["train"][plan.domain.domain]
        if plan.refuse and random.random() < OTHER_DOMAIN_SHARE:
            pool = self.planner.by_domain["train"][random.choice([n for n in domains() if n != plan.domain.domain])]
        served = [self.tools[goal.tool] for goal in plan.goals]
        free = [t.name for t in pool if t.name not in besides and not any(could_serve(t, other) for other in served)]
        return random.sample(free, min(count, len(free)))

    def _foreign(self, plan: Plan, random: Random) -> list[str]:
        """A declared tool that speaks of nothing in the domain, so that it cannot do what the task wants."""
        words = {plan.domain.domain, plan.domain.entity, plan.domain.plural}
        drawn = random.choice(self.declared)
        said = set(re.findall("[a-z]+", f"{drawn.name} {drawn.description}".lower()))
        return [] if said & words else [drawn.name]


def script(plan: Plan) -> dict[str, Any]:
    """The goal as an oracle gets it: calls, what to say of each result, and the parameter that the user leaves out."""
    calls: list[dict[str, Any]] = []
    for turn, group in enumerate(plan.turns if not plan.refuse else []):
        for goal in group:
            answer = goal.says | ({"value": at(len(calls), goal.reads)} if goal.reads else {})
            call = {"name": goal.tool, "arguments": stated(goal.arguments), "turn": turn, "answer": answer}
            calls.append(call)
    return {"calls": calls, "withheld": plan.withheld}


def difficulty(kind: str, declared: int, plan: Plan) -> str:
    """easy, medium or hard: by the kind, with one step up for tools to choose among."""
    return LEVELS[min(2, DIFFICULTY[kind] + (declared > 1 + (len(plan.goals) > 1)))]


def rubric(plan: Plan, calls: int, end_state: str, useful: list[str]) -> list[dict[str, Any]]:
    """The checks of a whole dialogue; `k2core.agentic.tasks.judge` carries them out.

    Args:
        calls: how many the job needs.
        useful: declared tools of the families that the goals need, and all that only read.
    """
    checks: list[dict[str, Any]] = [{"check": "valid_calls"}, {"check": "state", "hash": end_state}]
    checks += [{"check": "calls", "at_most": calls}, {"check": "brief", "at_most": MAX_ANSWER}]
    if plan.refuse:
        return [*checks, {"check": "refuses", "any": REFUSAL_WORDS}]
    checks.append({"check": "tools", "only": useful})
    checks.append({"check": "facts", "each": [goal.facts for goal in plan.goals]})
    return [*checks, *said(plan.goals)]


def said(goals: Sequence[Goal]) -> list[dict[str, Any]]:
    """The checks of what the last answer says of `goals`: each one's words, and of what was deleted that it was."""
    checks: list[dict[str, Any]] = []
    if words := [word for goal in goals for word in goal.mentions]:
        checks.append({"check": "mentions", "all": words})
    # "The city of Ann is now Rome" has the words of a goal that deleted Ann.
    deleted = [goal.mentions for goal in goals if goal.says.get("words") == "deleted" and "no" not in goal.mentions]
    if deleted:
        checks.append({"check": "deletions", "each": deleted, "any": DELETION_WORDS})
    return checks


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
