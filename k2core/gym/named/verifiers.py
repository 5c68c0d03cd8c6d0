"""Tasksets of Prime Intellect's `verifiers`: their prompts, and their own rewards for one reply.

The package and what it draws in live in an interpreter of their own, which the recipe names; a process of it loads the
taskset and scores the replies (`verifiers_worker.py`). Taken are tasksets of version 0.4 (`verifiers.v1`) whose tasks
are one reply, rewarded by code that needs no container: others are refused with the reason. A reply that makes the
rewards fail, or wait longer than `timeout_s`, gets 0.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.chat.special_tokens import SPECIAL_TOKENS
from k2core.gym.base import SYSTEM, Item, Split, answer, response_text, split_of
from k2core.gym.judging import Models
from k2core.recipe import Section
from k2core.stage import StageError

WORKER = Path(__file__).with_name("verifiers_worker.py")
START_S = 300.0
"""Seconds that a taskset may take to load its tasks."""


class VerifiersSettings(Section):
    """Which taskset, of which interpreter, with which settings."""

    python: str = Field(min_length=1, description="interpreter with verifiers and the taskset; python: our own")
    id: str = Field(min_length=1, description="the taskset, by the name of its installed package")
    config: dict[str, Any] = Field(description="keys of the taskset's own config; {}: its defaults")
    tasks: int = Field(ge=2, description="tasks that are taken, the first ones; a fifth of them is held out")
    gold: str | None = Field(
        description="right replies, with the task's fields in braces, as in <answer>{answer}</answer>; null: none is "
        "known, so that it cannot be among demonstrations or pairs"
    )
    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    timeout_s: float = Field(gt=0, description="seconds that the rewards of one reply may take")


class Worker:
    """The process that holds a taskset; started again after a reply that it did not outlive."""

    def __init__(self, where: str, settings: VerifiersSettings) -> None:
        self._where, self._settings = where, settings
        self._process: subprocess.Popen[str] | None = None
        self._listed: list[dict[str, Any]] = []
        self._asking = threading.RLock()  # replies are scored several at once, and the process answers one at a time

    def tasks(self) -> list[dict[str, Any]]:
        """The messages and the data of each task.

        Raises:
            StageError: there is no such interpreter, package or taskset, or the taskset is refused.
        """
        with self._asking:
            self._started()
            return self._listed

    def reward(self, task: int, reply: str) -> float:
        """The taskset's reward, cut to [0, 1]; 0 where there is none."""
        with self._asking:
            found = self._ask(self._started(), {"task": task, "reply": reply}, self._settings.timeout_s)
        value = found.get("reward", 0.0)
        return min(1.0, max(0.0, value)) if value == value else 0.0  # NaN is no reward

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            python = sys.executable if self._settings.python == "python" else self._settings.python
            try:
                self._process = subprocess.Popen(
                    [python, "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                    stderr=subprocess.DEVNULL,
                )  # fmt: skip
            except OSError as error:
                raise StageError(f"{self._where}.python = {python!r}: no interpreter ({error.strerror})") from None
            wanted = {name: getattr(self._settings, name) for name in ("id", "config", "tasks")}
            found = self._ask(self._process, wanted, START_S)
            if "tasks" not in found:
                said = found.get("error", f"it does not load its tasks, or not within {START_S:g} s")
                raise StageError(self._complaint(python, said))
            self._listed = found["tasks"]
        return self._process

    def _ask(self, process: subprocess.Popen[str], request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The line that the process answers; none if it ends, or is ended because the time is up."""
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            if select.select([process.stdout], [], [], seconds)[0]:
                return json.loads(process.stdout.readline())
        except (BrokenPipeError, ValueError):
            pass
        process.kill()
        process.wait()
        return {}

    def _complaint(self, python: str, said: str) -> str:
        if "No module named 'verifiers" in said:
            return (
                f"{self._where}.python = {python!r} has no verifiers 0.4; make a virtual environment, run `pip install "
                "verifiers` and install the taskset there, and name its interpreter"
            )
        return f"{self._where}.id = {self._settings.id!r}: {said}"


@dataclass(frozen=True)
class Verifiers:
    """The tasks of a taskset by split; the seed plays no part."""

    name: str
    settings: VerifiersSettings
    worker: Worker = field(repr=False, compare=False)

    @property
    def max_new_tokens(self) -> int:
        """Token budget of a response."""
        return self.settings.max_new_tokens

    @cached_property
    def numbers(self) -> dict[Split, list[int]]:
        """The tasks' numbers, by hash of their prompts."""
        found: dict[Split, list[int]] = {"train": [], "heldout": []}
        for number, task in enumerate(self.worker.tasks()):
            found[split_of(f"{self.settings.id}/{json.dumps(task['messages'])}")].append(number)
        return found

    def size(self, split: Split) -> int:
        """The number of tasks."""
        return len(self.numbers[split])

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Task number `index` of the split.

        Raises:
            StageError: `gold` names a field that the task does not have.
        """
        number = self.numbers[split][index]
        task = self.worker.tasks()[number]
        messages = task["messages"]
        if messages[0]["role"] != "system":  # the template would put in its own
            messages = [{"role": "system", "content": SYSTEM}, *messages]
        try:
            gold = (self.settings.gold or "").format(**task["data"])
        except (KeyError, IndexError, ValueError) as error:
            where = f"gym.verifiers.{self.name}.gold = {self.settings.gold!r}"
            raise StageError(f"{where}: {error}; a task has {', '.join(task['data'])}") from None
        return Item(f"{self.name}/{number}", messages, answer(gold), meta={"task": number})

    def score(self, item: Item, completion: str) -> float:
        """The taskset's reward; 0 for a reply with control tokens."""
        reply = response_text(completion)
        if any(token in reply for token in SPECIAL_TOKENS):
            return 0.0
        return self.worker.reward(item.meta["task"], reply)


def make(settings: Mapping[str, VerifiersSettings], models: Models) -> list[Verifiers]:
    """The environments of section `gym.verifiers`."""
    return [Verifiers(name, each, Worker(f"gym.verifiers.{name}", each)) for name, each in settings.items()]
