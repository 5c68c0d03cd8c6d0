"""One dialogue: a user with a persona, an agent, and the world its tools act on."""

from __future__ import annotations

from itertools import count
from typing import Any, Protocol

from k2core.agentic.tasks.task import Task, first_prompt
from k2core.agentic.tools.simulator import Outcome
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


def converse(task: Task, agent: Agent, world: World) -> list[Message]:
    """Play the dialogue to its end: an answer without a call that leaves the user nothing to add.

    The user gives the withheld detail when the agent asks a question, once. A dialogue that does not end within
    `MAX_REPLIES` replies is cut there; the judge then finds no answer.
    """
    messages: list[Message] = list(first_prompt(task))
    index, follow_up = count(), task["follow_up"]  # K2's ids are counted over the whole dialogue
    for _ in range(MAX_REPLIES):
        reply = agent.reply(messages)
        calls = [
            ToolCall(f"functions.{call['name']}:{next(index)}", call["name"], call["arguments"])
            for call in reply.get("tool_calls", [])
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
