"""One dialogue: a user with a persona, an agent, and the world its tools act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from k2core.agentic.judge import Evidence
from k2core.agentic.simulator import Outcome
from k2core.agentic.tasks import Task, first_prompt
from k2core.chat.parser import ToolCall

Message = dict[str, Any]
MAX_REPLIES = 6


class World(Protocol):
    """What executes calls: the simulator, or a real server."""

    outcomes: list[Outcome]

    def execute(self, call: ToolCall) -> Outcome:
        """Carry out one call; never raises for what the call says."""


class Agent(Protocol):
    """What answers. A fresh one is made for each dialogue."""

    def reply(self, messages: list[Message]) -> Message:
        """The next assistant message: `content`, and `tool_calls` as `[{"name", "arguments": str}]` without ids."""


@dataclass
class Counter:
    """K2's ids: `functions.NAME:IDX`, counted over the whole dialogue."""

    used: int = field(default=0)

    def number(self, name: str) -> str:
        """The next id for a call of `name`."""
        self.used += 1
        return f"functions.{name}:{self.used - 1}"


def converse(task: Task, agent: Agent, world: World) -> list[Message]:
    """Play the dialogue to its end: an answer without a call that leaves the user nothing to add.

    The user gives the withheld detail when the agent asks a question, once. A dialogue that does not end within
    `MAX_REPLIES` replies is cut there; the judge then finds no answer.
    """
    messages: list[Message] = list(first_prompt(task))
    ids, follow_up = Counter(), task["follow_up"]
    for _ in range(MAX_REPLIES):
        reply = agent.reply(messages)
        calls = [
            ToolCall(ids.number(call["name"]), call["name"], call["arguments"]) for call in reply.get("tool_calls", [])
        ]
        message: Message = {"role": "assistant", "content": reply["content"]}
        messages.append(message | ({"tool_calls": [call.wire() for call in calls]} if calls else {}))
        for call in calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": world.execute(call).text})
        if not calls:
            if follow_up is None or "?" not in reply["content"]:
                break
            messages.append({"role": "user", "content": follow_up})
            follow_up = None
    return messages


def evidence(messages: list[Message], world: World, state: str) -> Evidence:
    """What the judge needs."""
    return Evidence(messages, world.outcomes, state)
