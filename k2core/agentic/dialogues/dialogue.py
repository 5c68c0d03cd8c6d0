"""One dialogue: a user with a persona, an agent, and the world its tools act on.

`turns` is the only place that says how a dialogue goes. It asks for a reply and waits, so that the caller may answer
one dialogue at a time (`converse`) or all that are open in one batch (`together`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from k2core.agentic.tasks.task import Task, first_prompt
from k2core.agentic.tools.simulator import Outcome
from k2core.chat.parser import ToolCall

Message = dict[str, Any]
Turns = Generator[list[Message], Message, list[Message]]
MAX_REPLIES, RETRIES = 6, 3
MAX_RESULT = 20_000
"""Characters of a tool's result that the agent gets to see."""


class World(Protocol):
    """What executes calls: the simulator, or a real server."""

    outcomes: list[Outcome]

    def execute(self, call: ToolCall) -> Outcome:
        """Carry out one call; never raises for what the call says."""


class Agent(Protocol):
    """What answers. A fresh one is made for each dialogue."""

    def reply(self, messages: list[Message]) -> Message:
        """The next assistant message: `content`, and `tool_calls` as `[{"name", "arguments": str}]` without ids.

        A reply that is no well-formed message has `errors`, a list of sentences; it ends the dialogue.
        """


def turns(task: Task, world: World) -> Turns:
    """The dialogue: yields the messages so far when a reply is due, is sent the reply, returns all messages.

    It ends at a reply without a call that leaves the user nothing to say. The user gives the withheld detail when
    the agent asks a question, once; and says what `later` has next when the agent has done what it waits for: asked a
    question, or given an answer. A dialogue is cut after `MAX_REPLIES` replies, or as many as the job and
    `RETRIES` failures take; the judge then finds no answer. A malformed reply ends it too, and the judge fails it.
    """
    messages: list[Message] = list(first_prompt(task))
    index = count()  # K2's ids are counted over the whole dialogue
    later = list(task.get("later", []))
    if task["follow_up"] is not None:
        later.append({"after": "question", "says": task["follow_up"]})
    for _ in range(max(MAX_REPLIES, len(task["gold_calls"]) + len(later) + 1 + RETRIES)):
        reply = yield messages
        said = _writable(reply["content"])
        if reply.get("errors"):
            messages.append({"role": "assistant", "content": said, "errors": reply["errors"]})
            break
        calls = [
            ToolCall(f"functions.{name}:{next(index)}", name, _writable(call["arguments"]))
            for call in reply.get("tool_calls", [])
            for name in [_writable(call["name"])]
        ]
        message: Message = {"role": "assistant", "content": said}
        messages.append(message | ({"tool_calls": [call.wire() for call in calls]} if calls else {}))
        for call in calls:
            content = _writable(world.execute(call).text[:MAX_RESULT])
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
        if not calls:
            if not later or later[0]["after"] != ("question" if "?" in said else "answer"):
                break
            messages.append({"role": "user", "content": later.pop(0)["says"]})
    return messages


def converse(task: Task, agent: Agent, world: World) -> list[Message]:
    """Play one dialogue to its end; the messages of both sides."""
    return together([turns(task, world)], lambda asked: [agent.reply(messages) for messages in asked.values()])[0]


def together(
    dialogues: Sequence[Turns], answer: Callable[[Mapping[int, list[Message]]], Sequence[Message]]
) -> list[list[Message]]:
    """Play dialogues in lock-step to their ends.

    Args:
        answer: is given the messages of every open dialogue by its number, and returns a reply to each, in order.
    """
    ended: list[list[Message]] = [[] for _ in dialogues]
    replies: dict[int, Message | None] = dict.fromkeys(range(len(dialogues)))
    while replies:
        asked: dict[int, list[Message]] = {}
        for number, reply in replies.items():
            try:
                asked[number] = dialogues[number].send(reply)  # type: ignore[arg-type]  # the first one sent is None
            except StopIteration as end:
                ended[number] = end.value
        replies = dict(zip(asked, answer(asked), strict=True)) if asked else {}
    return ended


def calling(calls: list[Message], said: str = "") -> Message:
    """A reply that makes calls, `{"name", "arguments": str}` each."""
    return {"role": "assistant", "content": said, "tool_calls": calls}


def _writable(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON can hold and neither a file nor a tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
