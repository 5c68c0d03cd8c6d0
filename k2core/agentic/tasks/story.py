"""What a task of the richer kinds is about, and how it is written down.

The kinds are those of `k2core.agentic.tasks.world_stories` and `store_stories`. Each call is a turn of its own. The
gold path is found by carrying out the goals in the simulator: those that no rule of their own excludes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from k2core.agentic.domains.taxonomy import Draws
from k2core.agentic.tasks.personas import heldout_personas, personas
from k2core.agentic.tasks.script import at, gold, stated
from k2core.agentic.tasks.task import (
    HELDOUT_PERSONA_SHARE,
    LEVELS,
    MAX_ANSWER,
    REFUSAL_WORDS,
    REFUSALS,
    Task,
    said,
)
from k2core.agentic.tools.goals import Goal
from k2core.agentic.tools.grammar import READS
from k2core.agentic.tools.policy import holds
from k2core.agentic.tools.simulator import Simulator, State, state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall

OTHERS = {0: 0.7, 1: 0.3}
"""Tools beyond those that are needed: how many, and how often. Few, because their schemas are most of a prompt."""


@dataclass
class Story:
    """A world, the goals in order, and what the user says.

    Attributes:
        tools: those that the task may declare; it declares what the goals need, and some others.
        speaker: a sentence of the system prompt, where rules are in it: they may be about whom the agent talks to.
        later: turns of the user after the first: `says`, once the agent has given an `answer` or asked a `question`
            (`after`).
        withheld: the parameter of the only goal that the user leaves out, and never gives.
    """

    domain: str
    system: str
    tools: dict[str, ToolSpec]
    state: State
    goals: list[Goal]
    clause: str
    question: bool = False
    speaker: str = ""
    later: list[dict[str, str]] = field(default_factory=list)
    withheld: str = ""


def write(story: Story, name: str, kind: str, draws: Draws) -> Task:
    """The task called `name`."""
    random = draws.random
    world, done, refusals = Simulator(story.tools, story.state), list[Goal](), list[str]()
    for goal in story.goals if not story.withheld else []:
        broken = [rule["says"] for rule in goal.unless if holds(rule["when"], gold)]
        refusals += [says["rule"] for says in broken[:1] if says]
        if not broken:
            done.append(goal)
            call = ToolCall(f"functions.{goal.tool}:0", goal.tool, json.dumps(gold(goal.arguments)))
            if not world.execute(call).ok:  # what a store does, it does once
                world.execute(call)
    calls = [
        {"name": goal.tool, "arguments": gold(goal.arguments), "turn": turn}
        for turn, goal in enumerate(story.goals) if goal in done
    ]  # fmt: skip
    needed = list(dict.fromkeys(goal.tool for goal in story.goals))
    others = [tool for tool in story.tools if tool not in needed]
    count = min(len(others), random.choices(list(OTHERS), list(OTHERS.values()))[0])
    declared = [*needed, *random.sample(others, count)]
    random.shuffle(declared)
    rules = [rule["says"] for tool in story.tools if tool in declared for rule in _rules(story.tools[tool])]
    prompted = [*dict.fromkeys(rules), story.speaker] if rules else []
    useful = [tool for tool in declared if _reads(story.tools[tool]) or any(goal.tool == tool for goal in done)]
    persona, instruction = _instruction(story, draws)
    rubric: list[dict[str, Any]] = [
        {"check": "valid_calls"}, {"check": "state", "hash": state_hash(world.state)},
        {"check": "calls", "at_most": len(calls)}, {"check": "brief", "at_most": MAX_ANSWER},
        {"check": "tools", "only": useful}, {"check": "facts", "each": [goal.facts for goal in done if goal.facts]},
    ]  # fmt: skip
    last = [goal for goal in done if goal.heard == max(each.heard for each in done)]
    answers = [*(goal.answer for goal in last), *(f"I cannot do that. {rule}" for rule in refusals)]
    answer = " ".join(filter(None, dict.fromkeys(answers)))
    question = None
    first: dict[str, Any] = {"calls": [], "state": state_hash(story.state), "facts": [], "tools": [], "says": []}
    if story.withheld:
        label = story.goals[0].withheld[story.withheld][1]
        first["says"] = list(dict.fromkeys([label, story.withheld.replace("_", " ")]))
        answer, question = "All right.", f"Which {label}?"
        rubric.append({"check": "asks", "any": first["says"]})
    else:
        facts = [done[0].facts] if world.outcomes[0].ok and done[0].facts else []
        first |= {"calls": calls[:1], "state": world.outcomes[0].state, "facts": facts, "tools": useful}
    if refusals:
        rubric.append({"check": "declines", "any": REFUSAL_WORDS})
    rubric += said(last)
    return {
        "id": name, "split": draws.split, "kind": kind, "difficulty": LEVELS[min(2, max(1, len(calls)) - 1)],
        "domain": story.domain, "system": " ".join([story.system, *prompted]),
        "tools": declared, "persona": persona, "instruction": instruction, "follow_up": None, "later": story.later,
        "goal": _script(story), "initial_state": story.state, "rubric": rubric, "gold_calls": calls,
        "gold_answer": answer or REFUSALS[0], "gold_question": question, "first_turn": first,
    }  # fmt: skip


def _script(story: Story) -> dict[str, Any]:
    calls = [
        {"name": goal.tool, "arguments": stated(goal.arguments), "turn": turn, "unless": stated(goal.unless),
         "heard": goal.heard, "answer": stated(goal.says) | ({"value": at(turn, goal.reads)} if goal.reads else {})}
        for turn, goal in enumerate(story.goals)
    ]  # fmt: skip
    return {"calls": calls, "withheld": story.withheld or None, "stops": bool(story.withheld)}


def _instruction(story: Story, draws: Draws) -> tuple[str, str]:
    """The persona's name and its first message."""
    known = personas()
    if draws.split == "heldout" and draws.random.random() < HELDOUT_PERSONA_SHARE:
        known = heldout_personas()
    name, persona = draws.random.choice(list(known.items()))
    clause = story.goals[0].withheld[story.withheld][0] if story.withheld else story.clause
    return name, persona.say("question" if story.question else "wish", clause, draws.random)


def _rules(tool: ToolSpec) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = tool.semantics.get("rules", [])
    return rules


def _reads(tool: ToolSpec) -> bool:
    return tool.semantics["kind"] in {"get", "find", *READS}
