"""Agents that play the tasks: one that knows the plan, and a real LLM.

The planner's dialogues are what a good expert would do; it reacts to tools that fail for the moment, and makes a
realistic mistake now and then, so that the judge has something to reject. The LLM agent sees only what any agent
sees; its choices are held to the declared tools' schemas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import UNAVAILABLE
from k2core.agentic.tools.specs import ToolSpec
from k2core.storage import parse_json

if TYPE_CHECKING:
    from k2core.llm.client import LLM

Message = dict[str, Any]
MISTAKES = ("wrong_value", "missing_argument", "extra_call", "wrong_tool", "silent_answer", "no_question")


class PlannerAgent:
    """Follows the gold plan of a task, with at most one mistake.

    Args:
        mistake: one of `MISTAKES`, or None. A mistake that the task leaves no room for falls back to a bad answer.
    """

    def __init__(self, task: Task, tools: Mapping[str, ToolSpec], random: Random, mistake: str | None = None) -> None:
        self.task, self.tools, self.random = task, tools, random
        self.answer, self.question = task["gold_answer"], task["gold_question"]
        turns = sorted({call["turn"] for call in task["gold_calls"]})
        self.turns = [[_call(c) for c in task["gold_calls"] if c["turn"] == turn] for turn in turns]
        self.failed: list[Message] = []
        if mistake:
            self._spoil(mistake)

    def reply(self, messages: list[Message]) -> Message:
        """A question if one is due, else failed calls again, else the next turn of calls, else the answer."""
        if self.question:
            question, self.question = self.question, None
            return {"role": "assistant", "content": question}
        self.failed = self._unavailable(messages)
        if self.failed:
            return _calling(self.failed)
        return _calling(self.turns.pop(0)) if self.turns else {"role": "assistant", "content": self.answer}

    def _unavailable(self, messages: list[Message]) -> list[Message]:
        """The calls of the last turn that met a temporary failure."""
        last = next((m for m in reversed(messages) if m["role"] == "assistant"), {})
        again = {m["tool_call_id"] for m in messages if m["role"] == "tool" and UNAVAILABLE in m["content"]}
        return [dict(call["function"]) for call in last.get("tool_calls", []) if call["id"] in again]

    def _spoil(self, mistake: str) -> None:
        calls = [call for turn in self.turns for call in turn]
        call = self.random.choice(calls) if calls else None
        arguments = json.loads(call["arguments"]) if call else {}
        if mistake == "no_question" and self.question:
            self.question = None
            self._change(call, arguments)  # guesses the value it should have asked for
        elif mistake == "wrong_value" and call:
            self._change(call, arguments)
        elif mistake == "missing_argument" and call:
            arguments.pop(self.random.choice(list(arguments)))
            call["arguments"] = json.dumps(arguments, ensure_ascii=False)
        elif mistake == "extra_call" and call:
            self.turns.append([dict(call)])
        elif mistake == "wrong_tool" and (others := [t for t in self.task["tools"] if not call or t != call["name"]]):
            self._wrong_tool(call, self.random.choice(others), arguments)
        elif mistake == "silent_answer":
            self.answer = "Done."
        else:
            self.answer = "Please try it yourself."

    def _change(self, call: Message | None, arguments: dict[str, Any]) -> None:
        """Another value of the same kind for one argument."""
        tool = self.tools[call["name"]] if call else None
        if call is None or tool is None:
            return
        name = self.random.choice(list(arguments))
        field = domains()[tool.domain].fields[tool.semantics["arguments"][name]]
        arguments[name] = field.draw(self.random, self.task["split"], other_than=arguments[name])
        call["arguments"] = json.dumps(arguments, ensure_ascii=False)

    def _wrong_tool(self, call: Message | None, name: str, arguments: dict[str, Any]) -> None:
        """Calls another declared tool; where none fits, one that does not fit."""
        if call:
            call["name"] = name
        else:
            self.turns = [[{"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}]]


class LLMAgent:
    """A real LLM; each reply is JSON: a call of a declared tool, or what it says."""

    def __init__(self, llm: LLM, tools: Sequence[ToolSpec], seed: int, temperature: float, max_tokens: int) -> None:
        self.llm, self.tools, self.seed = llm, tools, seed
        self.temperature, self.max_tokens = temperature, max_tokens

    def reply(self, messages: list[Message]) -> Message:
        """Ask for the next step; an answer that is no such step (cut off, or the server knows no schemas) counts as
        something said."""
        text = self.llm.complete(
            self._prompt(messages), max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed,
            schema=self._schema(messages),
        )  # fmt: skip
        try:
            step = parse_json(text)
        except ValueError:
            step = None
        match step:
            case {"tool": str(name), "arguments": dict(arguments)}:
                return _calling([{"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}])
            case {"say": str(said)}:
                return {"role": "assistant", "content": said.strip()}
        return {"role": "assistant", "content": text.strip()}

    def _schema(self, messages: list[Message]) -> dict[str, Any]:
        say = {"type": "object", "properties": {"say": {"type": "string", "maxLength": 160}}, "required": ["say"]}
        last = messages[-1]
        if last["role"] == "tool" and UNAVAILABLE not in last["content"]:  # a small model would call for ever
            return say
        calls = [
            {"type": "object", "required": ["tool", "arguments"],
             "properties": {"tool": {"const": t.name}, "arguments": {**t.parameters, "additionalProperties": False}}}
            for t in self.tools
        ]  # fmt: skip
        return {"anyOf": [*calls, say]}

    def _prompt(self, messages: list[Message]) -> list[dict[str, str]]:
        """The dialogue as plain chat; the small model knows no tool messages."""
        lines = [f"- {t.name}({', '.join(t.parameters['properties'])}): {t.description}" for t in self.tools]
        rules = 'Call a tool with {"tool": NAME, "arguments": {...}} or speak with {"say": TEXT}.'
        system = "\n".join([messages[0]["content"], "Tools:", *lines, rules])
        chat = [{"role": "system", "content": system}]
        for message in messages[1:]:
            if message["role"] == "assistant" and message.get("tool_calls"):
                function = message["tool_calls"][0]["function"]
                said = json.dumps({"tool": function["name"], "arguments": json.loads(function["arguments"])})
                chat.append({"role": "assistant", "content": said})
            elif message["role"] == "tool":
                chat.append({"role": "user", "content": f"Result: {message['content']}. Tell me the result."})
            else:
                chat.append({"role": message["role"], "content": message["content"]})
        return chat


def _call(gold: dict[str, Any]) -> Message:
    return {"name": gold["name"], "arguments": json.dumps(gold["arguments"], ensure_ascii=False)}


def _calling(calls: list[Message]) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": calls}
