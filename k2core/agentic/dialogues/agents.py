"""Agents that play the tasks: one that knows the plan, and a real LLM.

The planner's dialogues are what a good expert would do; it reacts to tools that fail for the moment, and makes a
realistic mistake now and then, so that the judge has something to reject. The LLM agent sees only what any agent
sees; its choices are held to the declared tools' schemas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from k2core.agentic.domains.taxonomy import Draws, domains
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import UNAVAILABLE
from k2core.agentic.tools.specs import ToolSpec
from k2core.recipe.reading import read_yaml
from k2core.storage import parse_json

if TYPE_CHECKING:
    from k2core.llm.client import LLM

Message = dict[str, Any]
WHO = {"user": "User", "tool": "Result", "assistant": "You"}
SPEAK = "speak"
"""What the LLM agent chooses when no tool is to be called."""
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
        arguments[name] = field.draw(Draws(self.random, self.task["split"]), other_than=arguments[name])
        call["arguments"] = json.dumps(arguments, ensure_ascii=False)

    def _wrong_tool(self, call: Message | None, name: str, arguments: dict[str, Any]) -> None:
        """Calls another declared tool; where none fits, one that does not fit."""
        if call:
            call["name"] = name
        else:
            self.turns = [[{"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}]]


class LLMAgent:
    """A real LLM, asked in two steps: which tool, or to speak; then for the arguments, or the words.

    The choice and the arguments are JSON under a schema; the words are plain text, because a grammar of JSON ends a
    string at the first quote inside it. For the same reason the dialogue is shown without double quotes. Each question
    stands behind two worked examples, without which a small model answers something else.
    """

    def __init__(self, llm: LLM, tools: Sequence[ToolSpec], seed: int, temperature: float, max_tokens: int) -> None:
        self.llm, self.tools, self.seed = llm, {tool.name: tool for tool in tools}, seed
        self.temperature, self.max_tokens = temperature, max_tokens

    def reply(self, messages: list[Message]) -> Message:
        """The next step. An answer that is none (cut off, or the server knows no schemas) counts as something said."""
        chosen = self._choice(messages)
        if chosen not in self.tools:
            return {"role": "assistant", "content": self._ask("words", messages, "", None).strip().partition("\n")[0]}
        parameters = {**self.tools[chosen].parameters, "additionalProperties": False}
        fields = ", ".join(parameters.get("properties", {}))  # beside its name, a small model fills in the name
        text = self._ask("arguments", messages, fields, parameters)
        try:
            arguments = parse_json(text)
        except ValueError:
            return {"role": "assistant", "content": text.strip()}
        return _calling([{"name": chosen, "arguments": json.dumps(arguments, ensure_ascii=False)}])

    def _choice(self, messages: list[Message]) -> str:
        """The name of a tool, or anything else to speak."""
        last = messages[-1]
        if last["role"] == "tool" and UNAVAILABLE not in last["content"]:  # a small model would call for ever
            return ""
        lines = "\n".join([SPEAK, *map(_declared, self.tools.values())])
        schema = {
            "type": "object", "required": ["step"], "properties": {"step": {"enum": [*self.tools, SPEAK]}},
        }  # fmt: skip
        try:
            return str(parse_json(self._ask("step", messages, lines, schema))["step"])
        except (ValueError, KeyError, TypeError):
            return ""

    def _ask(self, kind: str, messages: list[Message], tools: str, schema: dict[str, Any] | None) -> str:
        """Args: kind: of the worked examples."""
        prompt = prompts()[kind]
        chat = [{"role": "system", "content": f"{messages[0]['content']} {prompt['rule']}"}]
        for example in prompt["examples"]:
            chat += [{"role": "user", "content": example["shown"]}, {"role": "assistant", "content": example["answer"]}]
        shown = "\n".join(filter(None, [tools, *map(_told, messages[1:])])).replace('"', "")
        return self.llm.complete(
            [*chat, {"role": "user", "content": shown}], max_tokens=self.max_tokens, temperature=self.temperature,
            seed=self.seed, schema=schema,
        )  # fmt: skip


@cache
def prompts() -> dict[str, Any]:
    """The rules and examples of `agent_prompts.yaml`."""
    return read_yaml(Path(__file__).with_name("agent_prompts.yaml"))


def _declared(tool: ToolSpec) -> str:
    return f"{tool.name}({', '.join(tool.parameters.get('properties', {}))}): {tool.description}"


def _told(message: Message) -> str:
    """A message as a line of a report: a small model knows no tool messages."""
    if calls := message.get("tool_calls"):
        return "\n".join(f"You called {c['function']['name']} with {c['function']['arguments']}" for c in calls)
    return f"{WHO[message['role']]}: {message['content']}"


def _call(gold: dict[str, Any]) -> Message:
    return {"name": gold["name"], "arguments": json.dumps(gold["arguments"], ensure_ascii=False)}


def _calling(calls: list[Message]) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": calls}
