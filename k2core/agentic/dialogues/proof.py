"""The proof of a task: its gold path passes the judge; doing nothing and known-wrong paths fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from k2core.agentic.dialogues.dialogue import Agent, Message, converse
from k2core.agentic.dialogues.oracle import OracleAgent
from k2core.agentic.tasks.judge import Evidence, judge
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import Simulator
from k2core.agentic.tools.specs import ToolSpec


class Silent:
    """Says the right words and does nothing."""

    def __init__(self, words: str) -> None:
        self.words = words

    def reply(self, messages: list[Message]) -> Message:
        return {"role": "assistant", "content": self.words}


def fault(task: Task, tools: Mapping[str, ToolSpec]) -> str:
    """What is wrong with the task: `gold`, or the name of the wrong path that passes; empty if nothing is."""
    declared = {name: tools[name] for name in task["tools"]}

    def passes(agent: Agent) -> bool:
        world = Simulator(declared, task["initial_state"])
        messages = converse(task, agent, world)
        return judge(task, Evidence.of(messages, world)).passed

    if not passes(OracleAgent(task["goal"], declared, Random(task["id"]))):
        return "gold"
    if (task["gold_calls"] or task["gold_question"]) and passes(Silent(task["gold_answer"])):
        return "nothing"
    for name, goal in wrong_ways(task):
        mistake = "no_question" if name == "pushy" else None
        if passes(OracleAgent(goal, declared, Random(task["id"]), mistake)):
            return name
    return ""


def wrong_ways(task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """Goals that an agent follows who stops before the last call, forgets the rules, does not listen, or pushes on."""
    goal, calls = task["goal"], task["goal"]["calls"]
    done = [call["turn"] for call in task["gold_calls"]]
    if len(done) > 1 and not any(check["check"] == "declines" for check in task["rubric"]):
        yield "unfinished", goal | {"calls": [call for call in calls if call["turn"] != done[-1]]}
    if len(done) < len(calls) and any(call.get("unless") for call in calls):
        yield "heedless", goal | {"calls": [call | {"unless": []} for call in calls]}
    if any(call.get("heard") for call in calls):
        yield "deaf", goal | {"calls": [call for call in calls if not call["heard"]]}
    if goal.get("stops"):
        yield "pushy", goal
