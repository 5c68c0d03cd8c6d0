"""What a real server's tasks are made of: a world that is set up, wishes with their calls, and a judge by results.

Real execution stands beside simulation (K2 §3.1). The files in `k2core/agentic/tasks/real` are the domains.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.tasks.personas import personas
from k2core.agentic.tasks.script import gold, stated
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.mcp import McpServer, ServerFault
from k2core.agentic.tools.simulator import Outcome, State, check_call, state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall
from k2core.recipe import modules_in
from k2core.stage import StageError
from k2core.storage.atomic import remove
from k2core.storage.disk import of_the_machine
from k2core.storage.foreign import one_line

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
UNREADABLE: State = {"unreadable": {"world": {}}}
"""The state of a world that cannot be told; no task wants it."""
_PLAIN = re.compile(r"\w[\w.-]*")
"""Names of this project's tasks: none leads out of a folder or is an option."""


class WorldFault(Exception):
    """A world cannot be set up where another one was: the sentence says why."""


@dataclass(frozen=True)
class Wish:
    """What a user wants of a world, and one way to do it.

    Attributes:
        calls: made by `call`; what a later turn calls may depend on what an earlier one returned.
        end: the world when it is done.
        mentions: what the answer must say.
        returned: what a tool must have said.
    """

    clause: str
    question: bool
    answer: str
    calls: list[dict[str, Any]]
    tools: list[str]
    initial: State
    end: State
    mentions: list[str]
    returned: list[str] = field(default_factory=list)


class RealDomain:
    """The tasks of one server: `name`, `system`, `wish`; where calls change something, also `make` and `state`."""

    name: str
    system: str
    tools: Collection[str]
    """What its tasks may call: a server offers more, such as git tools that run the commands of a repository."""
    environment: Mapping[str, str] = {}
    """Variables that the server is given, so that its results depend on nothing of the machine or the day."""

    def wish(self, number: int, random: Random) -> Wish:
        """The wish of task `number`, a pure function of the arguments."""
        raise NotImplementedError

    def make(self, folder: Path, state: State) -> None:
        """Set up the world `state` in `folder`, in which the server runs; what was there before goes."""
        for path in folder.iterdir():
            remove(path)

    def state(self, folder: Path, initial: State) -> State:
        """The world as it is now, in the form of `initial`."""
        return initial

    def refusal(self, arguments: Mapping[str, Any], folder: Path, initial: State) -> str:
        """Why a call would leave the world of the task; empty if it does not."""
        return ""

    def recorded(self, text: str) -> str:
        """A result as it is written down: what differs between two runs is replaced."""
        return text

    def task(self, seed: int, number: int) -> Task:
        """Task `number`, a pure function of the arguments."""
        random = Random(f"{seed}/{self.name}/{number}")
        wish = self.wish(number, random)
        persona = random.choice(list(personas()))
        gold_calls = [{n: gold(each[n]) for n in ("name", "arguments", "turn")} for each in wish.calls]
        rubric = [
            {"check": "valid_calls"}, {"check": "state", "hash": state_hash(wish.end)},
            {"check": "calls", "at_most": len(wish.calls)}, {"check": "mentions", "all": wish.mentions},
        ]  # fmt: skip
        if wish.returned:
            rubric.append({"check": "returned", "all": wish.returned})
        return {
            "id": f"{self.name}-{number:04}", "split": "train", "kind": "mcp",
            "difficulty": "hard" if len(wish.calls) > 1 else "medium", "domain": self.name, "system": self.system,
            "tools": wish.tools, "persona": persona,
            "instruction": personas()[persona].say("question" if wish.question else "wish", wish.clause, random),
            "follow_up": None, "goal": {"calls": stated(wish.calls), "withheld": None},
            "initial_state": wish.initial, "gold_calls": gold_calls, "gold_answer": wish.answer,
            "gold_question": None, "rubric": rubric,
        }  # fmt: skip


@dataclass
class RealWorld:
    """The world of one task, which a running server works on.

    Raises:
        WorldFault: what was there before cannot be cleared away.

    Args:
        folder: in which the server runs.
        tools: those that the task declares.
    """

    domain: RealDomain
    server: McpServer
    folder: Path
    tools: Mapping[str, ToolSpec]
    initial: State
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.domain.make(self.folder, self.initial)
        except StageError:
            raise  # the task is not one of ours
        except Exception as error:
            if of_the_machine(error):
                raise
            raise WorldFault(f"{type(error).__name__}: {one_line(error)}") from error

    def execute(self, call: ToolCall) -> Outcome:
        """Carry out one call; one that would leave the task's world counts as malformed."""
        try:
            _, arguments = check_call(call, self.tools)
            if call.name not in self.domain.tools:
                raise ValueError(f"{call.name[:40]} is no tool of this world")
            if refusal := self.domain.refusal(arguments, self.folder, self.initial):
                raise ValueError(refusal)
            outcome = Outcome(self.domain.recorded(self.server.call(call.name, arguments)), tool=call.name)
        except ValueError as error:
            outcome = Outcome({"error": str(error)}, valid=False, tool=call.name)
        except ServerFault as fault:
            outcome = Outcome({"error": str(fault)}, tool=call.name)
        self.outcomes.append(outcome)
        return outcome

    @property
    def state(self) -> State:
        """The world as it is now; `UNREADABLE` where somebody made of it what no task does, which costs this task."""
        try:
            state = self.domain.state(self.folder, self.initial)
            state_hash(state)
        except Exception as error:
            if of_the_machine(error):
                raise
            self.server.broken = True  # the next task gets a new one
            return UNREADABLE
        return state


@cache
def real_domains() -> dict[str, RealDomain]:
    """The domains by the name of their server."""
    return {name: module.DOMAIN for name, module in modules_in("k2core.agentic.tasks.real").items()}


def check_plain(*names: str) -> None:
    """Refuse names that no task of this project has: the file of the tasks may come from a bucket.

    Raises:
        StageError: one may lead out of its folder, or be an option.
    """
    for name in names:
        if not _PLAIN.fullmatch(name):
            raise StageError(f"real_tasks.jsonl: {name[:80]!r} is no name of this project's; run `tasks` again")


def call(name: str, says: Mapping[str, Any], turn: int = 0, **arguments: Any) -> dict[str, Any]:
    """A call of a wish.

    Args:
        says: how an oracle answers from its result: `words` of `oracle_words.yaml` and their slots; `proof` refers to
            what shows that it went well; `absent` is a pattern for a result that shows that there is no `thing`.
        arguments: literals that the user says, `Read` and `Text`.
    """
    return {"name": name, "arguments": arguments, "turn": turn, "answer": dict(says)}


def made_up(random: Random, syllables: int = 2) -> str:
    """A word that stands in no list: consonants and vowels in turn, and a consonant."""
    word = "".join(random.choice(CONSONANTS) + random.choice(VOWELS) for _ in range(syllables))
    return word + random.choice(CONSONANTS)
