"""A repository in the hands of an agent: tools to list, read, search, edit and test, on files that nobody else sees."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from k2core.agentic.dialogues.dialogue import Message, calling, converse
from k2core.agentic.tasks.judge import Verdict
from k2core.agentic.tools.simulator import Outcome, check_call
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall
from k2core.swe.repository import repository
from k2core.swe.task import Task, broken, edited, mend, tampering, verdict
from k2core.swe.testing import run_tests

MOST_LINES, MOST_MATCHES, SHOWN = 80, 20, 1500
SYSTEM = "You mend a Python package. Find the mistake, correct it, and run the tests."


def _tool(name: str, description: str, **parameters: tuple[str, str]) -> ToolSpec:
    properties = {key: {"type": kind, "description": said} for key, (kind, said) in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return ToolSpec(name, description, schema, "swe", "software", "sandbox", None, "train")


TOOLS = {
    tool.name: tool
    for tool in (
        _tool("repo_list", "List the files of a folder.", folder=("string", "Folder, as the package's name")),
        _tool(
            "repo_read", f"Read lines of a file, at most {MOST_LINES}.", path=("string", "Path of the file"),
            first=("integer", "Number of the first line"), last=("integer", "Number of the last line"),
        ),
        _tool("repo_search", "Find lines that contain a text.", text=("string", "Text to look for")),
        _tool(
            "repo_edit", "Replace a text that a file has once.", path=("string", "Path of the file"),
            old=("string", "Text that is replaced"), new=("string", "Text that takes its place"),
        ),
        _tool("repo_test", "Run a file of tests.", path=("string", "Path of the file with tests")),
    )
}  # fmt: skip


class Bench:
    """The world of one task; see `k2core.agentic.dialogues.dialogue.World`."""

    def __init__(self, task: Task) -> None:
        self.task, self.files, self.package = task, broken(task), repository(task["package"])
        self.outcomes: list[Outcome] = []

    def execute(self, call: ToolCall) -> Outcome:
        """Carry out one call; what it may not do is an error in the result."""
        try:
            _, arguments = check_call(call, TOOLS)
            outcome = Outcome(getattr(self, f"_{call.name}")(**arguments), tool=call.name)
        except ValueError as error:
            outcome = Outcome({"error": str(error)}, valid=False, tool=call.name)
        self.outcomes.append(outcome)
        return outcome

    def verdict(self) -> str:
        """Why the repository as it is now is not mended; empty if it is."""
        return verdict(self.task, self.files)

    def _repo_list(self, folder: str) -> dict[str, Any]:
        below = folder.strip("/") + "/"
        names = {path.removeprefix(below).split("/")[0] for path in self.files if path.startswith(below)}
        if not names:
            raise ValueError(f"there is no folder {folder}")
        return {"entries": sorted(names)}

    def _repo_read(self, path: str, first: int, last: int) -> dict[str, Any]:
        if path not in self.files:
            raise ValueError(f"there is no file {path}")
        lines = self.files[path].decode("utf-8", "replace").splitlines()
        first = max(1, first)
        shown = lines[first - 1 : min(last, first + MOST_LINES - 1)]
        return {"first": first, "of": len(lines), "text": "\n".join(shown)}

    def _repo_search(self, text: str) -> dict[str, Any]:
        if not text.strip():
            raise ValueError("give a text to look for")
        found = [
            f"{path}:{number}: {line.strip()[:120]}"
            for path in sorted(self.files)
            if path.endswith(".py")
            for number, line in enumerate(self.files[path].decode("utf-8", "replace").splitlines(), 1)
            if text in line
        ]
        return {"matches": found[:MOST_MATCHES], "more": max(0, len(found) - MOST_MATCHES)}

    def _repo_edit(self, path: str, old: str, new: str) -> dict[str, Any]:
        changed = {**self.files, path: edited(self.files, path, old, new)}
        if reason := tampering(self.task, changed):
            raise ValueError(f"refused: {reason}")
        self.files = changed
        return {"edited": path}

    def _repo_test(self, path: str) -> dict[str, Any]:
        if path not in self.package.test_files:
            raise ValueError(f"{path} is no file of tests; there are {', '.join(self.task['tests'])}")
        outcome = run_tests(self.package, self.files, [path])
        if outcome.fault:
            raise ValueError(f"the tests have no result: {outcome.fault}")
        failed = sorted(outcome.errors)
        said = "\n".join(
            line for line in "\n".join(outcome.errors[t] for t in failed[:1]).splitlines() if line[:1] in "E>"
        )
        return {"passed": len(outcome.passed), "failed": failed[:5], "first": said[:SHOWN]}


def oracle(task: Task) -> list[dict[str, str]]:
    """Calls that find, mend and test it, as a programmer would who knows where to look: the gold path."""
    at = task["line"] - 1
    old, new = mend(task, broken(task)[task["path"]].decode().splitlines(), "\n")
    name = task["function"].rpartition(".")[2]
    steps: list[tuple[str, dict[str, Any]]] = [
        ("repo_test", {"path": task["tests"][0]}),
        ("repo_search", {"text": f"def {name}("}),
        ("repo_read", {"path": task["path"], "first": max(1, at - 15), "last": at + 15}),
        ("repo_edit", {"path": task["path"], "old": old, "new": new}),
        ("repo_test", {"path": task["tests"][0]}),
    ]
    return [{"name": name, "arguments": json.dumps(arguments)} for name, arguments in steps]


class _Oracle:
    """Makes the calls of the gold path, one at a time, and then says what it has done."""

    def __init__(self, task: Task) -> None:
        self.calls = oracle(task)
        self.last = f"I mended {task['function'].rpartition('.')[2]} in {task['path']}; its tests pass again."

    def reply(self, messages: list[Message]) -> Message:
        if not self.calls:
            return {"role": "assistant", "content": self.last}
        return calling([self.calls.pop(0)])


def repaired(task: Task) -> dict[str, Any]:
    """The dialogue in which an agent mends it, judged by the tests, in the form of `data/trajectories`."""
    bench, calls = Bench(task), oracle(task)
    asked = {"system": SYSTEM, "instruction": task["issue"], "gold_calls": calls, "follow_up": None}
    messages = converse(asked, _Oracle(task), bench)
    fault = bench.verdict()
    checks = {"tests": not fault, "valid_calls": all(outcome.valid for outcome in bench.outcomes)}
    return {
        "id": f"{task['id']}/oracle/0", "task_id": task["id"], "kind": "swe", "agent": "oracle",
        "tools": [tool.wire() for tool in TOOLS.values()], "messages": messages, "verdict": asdict(Verdict.of(checks)),
    }  # fmt: skip
