"""The oracle: it knows what a user wants and which calls reach it, and learns every other value from the dialogue.

It is given the script of the task's goal (`k2core.agentic.tasks.script`) and the declared tools; the world, the gold
calls and the gold answer are not within its reach. It uses no value before the user has said it or a tool has returned
it. It asks for what is missing, calls again after a temporary failure, and says what the tools returned. It makes a
realistic mistake now and then, so that the judge has something to reject.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.dialogues.dialogue import Message, calling
from k2core.agentic.domains.taxonomy import Draws, domains
from k2core.agentic.tasks.script import content, literals, resolve
from k2core.agentic.tools.goals import quote
from k2core.agentic.tools.simulator import UNAVAILABLE
from k2core.agentic.tools.specs import ToolSpec
from k2core.recipe.reading import read_yaml
from k2core.storage.foreign import one_line

MISTAKES = ("wrong_value", "missing_argument", "extra_call", "wrong_tool", "silent_answer", "no_question")
RETRIES = 3
"""Times in a dialogue that calls are made again because their tools were unavailable; then it says so."""
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
        self.asked = False
        self.answer = "" if self.calls else self._say("refusal")
        self.sent: list[int] = []
        self.retries = 0
        self.results: dict[int, str] = {}
        if mistake:
            self._spoil(mistake)

    def reply(self, messages: list[Message]) -> Message:
        """A question if one is due, else failed calls again, else the next turn of calls, else the answer."""
        returned = [message["content"] for message in messages if message["role"] == "tool"]
        self.results |= dict(zip(self.sent, returned[len(returned) - len(self.sent) :], strict=True))
        if unsaid := self._unsaid(messages):
            kind, self.asked = "unsaid" if self.asked else "question", True
            return {"role": "assistant", "content": self._say(kind, label=unsaid.replace("_", " "))}
        again = [n for n in self.sent if UNAVAILABLE in self.results[n]]
        if again and self.retries < RETRIES:
            self.retries += 1
            return self._calling(again, self._say("retry"))
        if self.turns and not any(self._told(n)[0] in FAILED for n in self.sent):
            try:
                return self._calling(self.turns.pop(0))
            except LookupError:  # a result lacks what the next call needs
                self.answer = self.answer or self._say("unread")
        self.sent = []
        return {"role": "assistant", "content": self.answer or self._last_word()}

    def _unsaid(self, messages: Sequence[Message]) -> str | None:
        """A parameter whose value the user has not said; one that was withheld counts as said in a later message."""
        users = [message["content"] for message in messages if message["role"] == "user"]
        for call in self.calls:
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
            tool = self.tools[call["name"]]
            field = domains()[tool.domain].fields[tool.semantics["arguments"][name]]
            arguments[name] = field.draw(Draws(self.random, "train"), other_than=arguments[name])
        arguments.pop(call.get("left_out"), None)
        return json.dumps(arguments, ensure_ascii=False)

    def _told(self, number: int) -> tuple[str, dict[str, Any]]:
        """What is to be said of the result of a call: which words, and what goes into them."""
        says, text = self.calls[number].get("answer", {}), self.results[number]
        result = content(text)
        error = result.get("error") if isinstance(result, dict) else None
        if error == "not found" or ("absent" in says and re.search(says["absent"], text)):
            return "missing", {"thing": says.get("thing", "such thing")}
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
        told = [self._told(number) for number in sorted(self.results)]
        return " ".join(dict.fromkeys(self._say(kind, **slots) for kind, slots in told if kind))

    def _say(self, kind: str, **slots: Any) -> str:
        return self.random.choice(words()[kind]).format(**slots)

    def _spoil(self, mistake: str) -> None:
        number = self.random.randrange(len(self.calls)) if self.calls else None
        call = None if number is None else self.calls[number]
        if mistake == "no_question" and call and self.withheld:
            call["wrong"], self.withheld = self.withheld, None  # guesses the value it should have asked for
        elif mistake == "wrong_value" and call:
            call["wrong"] = self.random.choice(list(call["arguments"]))
        elif mistake == "missing_argument" and call:
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
