"""The oracle: it knows what a user wants and which calls reach it, and learns every other value from the dialogue.

It is given the script of the task's goal (`k2core.agentic.tasks.script`) and the declared tools; the world, the gold
calls and the gold answer are not within its reach. It uses no value before the user has said it or a tool has returned
it. It asks for what is missing, calls again after a temporary failure, leaves out what a rule forbids by what it has
read, waits for what the user will say later, and says what the tools returned. It makes a realistic mistake now and
then, so that the judge has something to reject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.dialogues.dialogue import RETRIES, Message, calling
from k2core.agentic.domains.taxonomy import Draws, domains
from k2core.agentic.tasks.script import content, literals, resolve
from k2core.agentic.tools.goals import quote
from k2core.agentic.tools.policy import holds
from k2core.agentic.tools.simulator import PASSING
from k2core.agentic.tools.specs import ToolSpec
from k2core.recipe.reading import read_yaml
from k2core.storage.foreign import one_line

MISTAKES = ("wrong_value", "missing_argument", "extra_call", "wrong_tool", "silent_answer", "no_question")
FAILED = ("missing", "failed", "unread")
"""What is said of a result with which the next call makes no sense."""


class OracleAgent:
    """Follows the script of a goal, with at most one mistake.

    Args:
        goal: a task's `goal`.
        tools: those that the task declares.
        mistake: one of `MISTAKES`, or None. A mistake that the task leaves no room for falls back to a bad answer.
    """

    def __init__(
        self, goal: Mapping[str, Any], tools: Mapping[str, ToolSpec], random: Random, mistake: str | None = None
    ) -> None:
        self.tools, self.random = tools, random
        self.calls: list[dict[str, Any]] = [dict(call) for call in goal["calls"]]
        turns = sorted({call["turn"] for call in self.calls})
        self.turns = [[n for n, call in enumerate(self.calls) if call["turn"] == turn] for turn in turns]
        self.withheld: str | None = goal["withheld"]
        self.stops: bool = goal.get("stops", False)
        self.told: set[int] = set()
        self.declined = ""
        self.asked = False
        self.answer = "" if self.calls else self._say("refusal")
        self.sent: list[int] = []
        self.retries = 0
        self.results: dict[int, str] = {}
        if mistake:
            self._spoil("no_question" if self.stops else mistake)

    def reply(self, messages: list[Message]) -> Message:
        """A question if one is due, else failed calls again, else the next turn of calls, else the answer.

        Calls are made again at most `RETRIES` times in a dialogue; then it says that they failed.
        """
        self.heard = sum(message["role"] == "user" for message in messages) - 1
        returned = [message["content"] for message in messages if message["role"] == "tool"]
        self.results |= dict(zip(self.sent, returned[len(returned) - len(self.sent) :], strict=True))
        if unsaid := self._unsaid(messages):
            kind = "question" if not self.asked else "stopped" if self.stops else "unsaid"
            self.asked = True
            return {"role": "assistant", "content": self._say(kind, label=unsaid.replace("_", " "))}
        again = [n for n in self.sent if any(mark in self.results[n] for mark in PASSING)]
        if again and self.retries < RETRIES:
            self.retries += 1
            return self._calling(again, self._say("retry"))
        while self.turns and self._due(self.calls[self.turns[0][0]]):
            if any(self._told(n)[0] in FAILED for n in self.sent):
                break
            try:
                if numbers := [n for n in self.turns.pop(0) if not self._excluded(self.calls[n])]:
                    return self._calling(numbers)
            except LookupError:  # a result lacks what the next call needs
                self.answer = self.answer or self._say("unread")
                break
        self.sent = []
        return {"role": "assistant", "content": self.answer or self._last_word()}

    def _due(self, call: Mapping[str, Any]) -> bool:
        """Whether the user has said all turns that come before the call."""
        return bool(call.get("heard", 0) <= self.heard)

    def _excluded(self, call: Mapping[str, Any]) -> bool:
        """Whether a rule keeps the call from being made, by what was said and read."""
        for rule in call.get("unless", ()):
            if holds(rule["when"], lambda value: resolve(value, self.results)):
                self.declined = self._say(rule["says"]["words"], **rule["says"]) if rule["says"] else ""
                return True
        return False

    def _unsaid(self, messages: Sequence[Message]) -> str | None:
        """A parameter whose value the user has not said; one that was withheld counts as said in a later message."""
        users = [message["content"] for message in messages if message["role"] == "user"]
        for call in filter(self._due, self.calls):
            for name, value in call["arguments"].items():
                heard = users[1:] if name == self.withheld else [messages[0]["content"], *users]
                guessed = name == call.get("wrong") and name != self.withheld
                if not guessed and not all(_said(literal, heard) for literal in literals(value)):
                    return name
        return None

    def _calling(self, numbers: list[int], said: str = "") -> Message:
        made = [{"name": self.calls[n]["name"], "arguments": self._arguments(self.calls[n])} for n in numbers]
        self.sent = numbers
        return calling(made, said)

    def _arguments(self, call: dict[str, Any]) -> str:
        arguments = {name: resolve(value, self.results) for name, value in call["arguments"].items()}
        if name := call.get("wrong"):
            arguments[name] = self._another(self.tools[call["name"]], name, arguments[name])
        arguments.pop(call.get("left_out"), None)
        return json.dumps(arguments, ensure_ascii=False)

    def _another(self, tool: ToolSpec, name: str, value: Any) -> Any:
        """A wrong value of a parameter: of the field's kind where the tool is of a domain, else of the same type."""
        if tool.domain in domains():
            field = domains()[tool.domain].fields[tool.semantics["arguments"][name]]
            return field.draw(Draws(self.random, "train"), other_than=value)
        if others := [each for each in tool.parameters["properties"][name].get("enum", []) if each != value]:
            return self.random.choice(others)
        return value + 1 if isinstance(value, int) else value[1:] if isinstance(value, str | list) else value

    def _told(self, number: int) -> tuple[str, dict[str, Any]]:
        """What is to be said of the result of a call: which words, and what goes into them."""
        says, text = self.calls[number].get("answer", {}), self.results[number]
        result = content(text)
        error = result.get("error") if isinstance(result, dict) else None
        if error == "not found" or ("absent" in says and re.search(says["absent"], text)):
            return "missing", {"thing": says.get("thing", "such thing")}
        if error == "ambiguous":
            return "ambiguous", {"value": _listed(result.get("matches", ""))}
        if error is not None:
            return "failed", {"error": one_line(str(error))}
        try:
            slots = {name: resolve(value, self.results) for name, value in says.items()}
        except LookupError:
            return "unread", {}
        if slots.get("value") == []:
            return "nothing", {}
        return says.get("words", ""), slots | {"value": _listed(slots.get("value", ""))}

    def _last_word(self) -> str:
        """What the results say that were not told yet, or all again; and what was declined."""
        new = sorted({*self.results} - self.told) or sorted(self.results)
        self.told |= {*new}
        said = [self._say(kind, **slots) for kind, slots in map(self._told, new) if kind]
        return " ".join(dict.fromkeys([*said, *filter(None, [self.declined])]))

    def _say(self, kind: str, **slots: Any) -> str:
        return self.random.choice(words()[kind]).format(**slots)

    def _spoil(self, mistake: str) -> None:
        sure = [n for n, call in enumerate(self.calls) if not call.get("unless")] or range(len(self.calls))
        number = sure[self.random.randrange(len(sure))] if self.calls else None
        call = None if number is None else self.calls[number]
        if mistake == "no_question" and call and self.withheld:
            call["wrong"], self.withheld = self.withheld, None  # guesses the value it should have asked for
        elif mistake == "wrong_value" and call and call["arguments"]:
            call["wrong"] = self.random.choice(list(call["arguments"]))
        elif mistake == "missing_argument" and call and call["arguments"]:
            call["left_out"] = self.random.choice(list(call["arguments"]))
        elif mistake == "extra_call" and call:
            next(turn for turn in self.turns if number in turn).append(len(self.calls))
            self.calls.append({**call, "answer": {}})
        elif mistake == "wrong_tool" and (others := [t for t in self.tools if not call or t != call["name"]]):
            other = self.random.choice(others)
            if call:
                call["name"] = other
            else:
                self.calls, self.turns = [{"name": other, "arguments": {}, "answer": {}}], [[0]]
        elif mistake == "silent_answer":
            self.answer = "All right."
        else:
            self.answer = "Please try it yourself."


@cache
def words() -> dict[str, Any]:
    """The ways of saying things in `oracle_words.yaml`, by kind."""
    return read_yaml(Path(__file__).with_name("oracle_words.yaml"))


def _said(literal: str, heard: Sequence[str]) -> bool:
    """Whether one of the texts has `literal`, as a word or words of its own."""
    pattern = re.compile(rf"(?<!\w){re.escape(literal)}(?!\w)", re.IGNORECASE)
    return any(pattern.search(text) for text in heard)


def _listed(value: Any) -> str:
    return " and ".join(map(quote, value if isinstance(value, list) else [value]))
