"""The judge: a dialogue, or a first reply alone, against the rubric of its task.

A verdict looks at the end state (as tau2-bench does), at what tools returned, and at what was said; it never asks
for the reference path. What programs cannot decide is asked of an LLM (`k2core.agentic.dialogues.llm_judge`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2core.agentic.tools.simulator import Outcome, Simulator, state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import parse_assistant

if TYPE_CHECKING:
    from k2core.agentic.tasks.real_domain import RealWorld

Message = dict[str, Any]
CALL_MARK = "<|tool_call"


@dataclass(frozen=True)
class Verdict:
    """Whether every check passed, the share that did, and each by name."""

    passed: bool
    score: float
    checks: dict[str, bool]

    @classmethod
    def of(cls, checks: dict[str, bool]) -> Verdict:
        """The verdict that follows from single checks."""
        return cls(all(checks.values()), sum(checks.values()) / len(checks), checks)


@dataclass(frozen=True)
class Evidence:
    """What there is to judge: all messages, the outcome of every call, the digest of the end state."""

    messages: Sequence[Message]
    outcomes: Sequence[Outcome]
    state: str

    @classmethod
    def of(cls, messages: Sequence[Message], world: Simulator | RealWorld) -> Evidence:
        """What a dialogue left behind in `world`, as it is now."""
        return cls(messages, world.outcomes, state_hash(world.state))

    @property
    def replies(self) -> list[Message]:
        """The agent's messages."""
        return [message for message in self.messages if message["role"] == "assistant"]

    @property
    def answer(self) -> str:
        """The agent's last word; empty if the dialogue ended on a call."""
        last = self.messages[-1]
        return last["content"] if last["role"] == "assistant" and not last.get("tool_calls") else ""


def judge(task: dict[str, Any], evidence: Evidence) -> Verdict:
    """A whole dialogue against the task's rubric; one that ended on a malformed reply fails in `format`.

    Raises:
        KeyError: the rubric has a check that is not in `CHECKS`.
    """
    checks = {check["check"]: CHECKS[check["check"]](check, evidence) for check in task["rubric"]}
    malformed = any(message.get("errors") for message in evidence.replies)
    return Verdict.of(checks | ({"format": False} if malformed else {}))


def judge_completion(task: dict[str, Any], tools: Mapping[str, ToolSpec], text: str) -> Verdict:
    """The first reply of an agent: its calls are carried out in a fresh world without random failures.

    `passed` asks for the state after the task's first turn, the facts a tool must have returned by then, and no
    call too many; or, where no call is due, for a question about the missing value or a refusal. `score` is the
    share of checks passed, 0 if a call is due and none is made or none is due and one is made.

    Args:
        tools: the specs of all tools by name (`data/tasks/tools.jsonl`).
        text: the text after the generation prompt, control tokens kept.
    """
    first = task["first_turn"]
    parsed = parse_assistant(text)
    attempted = bool(parsed.tool_calls) or CALL_MARK in text
    if attempted != bool(first["calls"]):
        return Verdict(False, 0.0, {"calls": False})
    if not attempted:
        return Verdict.of({"says": _says(first["says"], parsed.content)})
    simulator = Simulator({name: tools[name] for name in task["tools"]}, task["initial_state"])
    outcomes = [simulator.execute(call) for call in parsed.tool_calls]
    return Verdict.of({
        "format": not parsed.errors,
        "valid_calls": bool(outcomes) and all(outcome.valid for outcome in outcomes),
        "calls": len(outcomes) <= len(first["calls"]),
        "state": state_hash(simulator.state) == first["state"],
        "tools": all(outcome.tool in first["tools"] for outcome in outcomes if outcome.valid),
        "facts": _facts(first["facts"], outcomes),
    })  # fmt: skip


def _facts(each: Sequence[Sequence[str]], outcomes: Sequence[Outcome]) -> bool:
    held = [_leaves(outcome.result) for outcome in outcomes]
    return all(any(set(facts) <= leaves for leaves in held) for facts in each)


def _leaves(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_leaves, value.values()))
    if isinstance(value, list):
        return set().union(*map(_leaves, value))
    return {str(value)}


def _mentions(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _says(words: Sequence[str], text: str) -> bool:
    return any(_mentions(word, text) for word in words)


def _deletions(check: dict[str, Any], evidence: Evidence) -> bool:
    """For each thing that was deleted, a sentence names it and says so."""
    sentences = re.split(r"(?<=[.!?;])\s+|\n", evidence.answer)
    return all(
        any(all(_mentions(word, each) for word in words) and _says(check["any"], each) for each in sentences)
        for words in check["each"]
    )


def _asked(check: dict[str, Any], evidence: Evidence) -> bool:
    """The first reply is a question about the missing value, before any call."""
    first = evidence.replies[0] if evidence.replies else {}
    if not first or first.get("tool_calls"):
        return False
    return "?" in first["content"] and _says(check["any"], first["content"])


CHECKS: dict[str, Callable[[dict[str, Any], Evidence], bool]] = {
    "valid_calls": lambda check, e: all(outcome.valid for outcome in e.outcomes),
    "state": lambda check, e: e.state == check["hash"],
    "calls": lambda check, e: sum(outcome.ok for outcome in e.outcomes) <= check["at_most"],
    "tools": lambda check, e: all(outcome.tool in check["only"] for outcome in e.outcomes if outcome.valid),
    "facts": lambda check, e: _facts(check["each"], e.outcomes),
    "returned": lambda check, e: all(any(word in outcome.text for outcome in e.outcomes) for word in check["all"]),
    "mentions": lambda check, e: all(_mentions(word, e.answer) for word in check["all"]),
    "deletions": _deletions,
    "brief": lambda check, e: 0 < len(e.answer) <= check["at_most"],
    "asks": _asked,
    "declines": lambda check, e: _says(check["any"], e.answer),
    "refuses": lambda check, e: not e.outcomes and _says(check["any"], e.answer),
}
