"""A real LLM as an agent. It sees only what any agent sees; its choices are held to the declared tools' schemas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2core.agentic.dialogues.dialogue import Message, calling
from k2core.agentic.tools.simulator import PASSING
from k2core.agentic.tools.specs import ToolSpec
from k2core.recipe.reading import read_yaml
from k2core.storage import parse_json

if TYPE_CHECKING:
    from k2core.llm.client import LLM

WHO = {"user": "User", "tool": "Result", "assistant": "You"}
SPEAK = "speak"
"""What the LLM agent chooses when no tool is to be called."""


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
        return calling([{"name": chosen, "arguments": json.dumps(arguments, ensure_ascii=False)}])

    def _choice(self, messages: list[Message]) -> str:
        """The name of a tool, or anything else to speak."""
        last = messages[-1]
        if last["role"] == "tool" and not any(
            mark in last["content"] for mark in PASSING
        ):  # a small model would call for ever
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
        shown = "\n".join(filter(None, [tools, *map(told, messages[1:])])).replace('"', "")
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


def told(message: Message) -> str:
    """A message as a line of a report: a small model knows no tool messages."""
    if calls := message.get("tool_calls"):
        return "\n".join(f"You called {c['function']['name']} with {c['function']['arguments']}" for c in calls)
    return f"{WHO[message['role']]}: {message['content']}"
