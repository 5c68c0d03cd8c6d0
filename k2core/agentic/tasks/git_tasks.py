"""Tasks on a real git repository, executed by `mcp-server-git` (K2 §3.1: real execution beside simulation).

Thin: one server, one repository and at most two calls a task; no tool's random failures.
"""

from __future__ import annotations

import copy
from random import Random
from typing import Any

from k2core.agentic.tasks.personas import personas
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import State, state_hash

REPOSITORIES = ("shop", "blog", "wiki", "game", "map", "radio", "bank", "lab")
BRANCHES = ("login", "search", "basket", "photos", "prices", "menus", "alerts", "themes", "exports", "quotes")
FILES = ("notes.txt", "plan.txt", "todo.txt", "ideas.txt", "costs.txt")
KINDS = ("create", "switch", "stage", "create_and_switch", "current")


def git_task(seed: int, number: int) -> Task:
    """Task `number`, a pure function of the arguments; no two numbers share a repository."""
    random = Random(f"{seed}/git/{number}")
    kind = KINDS[number % len(KINDS)]
    name = f"{random.choice(REPOSITORIES)}-{number}"
    old, new = random.sample(BRANCHES, 2)
    file = random.choice(FILES)
    branches = sorted(["main", old])
    current = old if kind == "current" else "main"
    state: State = {"git": {name: {"branch": current, "branches": branches, "staged": [], "files": [file]}}}
    clause, answer, calls, mentions = _plan(kind, name, old, new, file)
    end = copy.deepcopy(state)
    _after(kind, end["git"][name], old, new, file)
    persona = random.choice(list(personas()))
    tools = sorted({call["name"] for call in calls})
    if kind != "current":
        tools.append("git_status")
    return {
        "id": f"git-{number:04}", "split": "train", "kind": "mcp", "difficulty": "hard" if len(calls) > 1 else "medium",
        "domain": "git", "system": "You work on git repositories.", "tools": tools, "persona": persona,
        "instruction": personas()[persona].say("question" if kind == "current" else "wish", clause, random),
        "follow_up": None, "initial_state": state, "gold_calls": calls, "gold_answer": answer, "gold_question": None,
        "rubric": [
            {"check": "valid_calls"}, {"check": "state", "hash": state_hash(end)},
            {"check": "calls", "at_most": len(calls)}, {"check": "mentions", "all": mentions},
        ],
    }  # fmt: skip


def _plan(kind: str, repo: str, old: str, new: str, file: str) -> tuple[str, str, list[dict[str, Any]], list[str]]:
    """What the user says, a good answer, the calls, and what the answer must mention."""

    def call(name: str, turn: int, **arguments: Any) -> dict[str, Any]:
        return {"name": name, "arguments": {"repo_path": repo, **arguments}, "turn": turn}

    if kind == "create":
        text = f"create the branch {new} in the repository {repo}"
        return text, f"I created the branch {new}.", [call("git_create_branch", 0, branch_name=new)], [new]
    if kind == "switch":
        text = f"switch the repository {repo} to the branch {old}"
        return text, f"{repo} is now on the branch {old}.", [call("git_checkout", 0, branch_name=old)], [old]
    if kind == "stage":
        text = f"stage the file {file} in the repository {repo}"
        return text, f"I staged the file {file}.", [call("git_add", 0, files=[file])], [file]
    if kind == "current":
        text = f"on which branch is the repository {repo}"
        return text, f"{repo} is on the branch {old}.", [call("git_status", 0)], [old]
    calls = [call("git_create_branch", 0, branch_name=new), call("git_checkout", 1, branch_name=new)]
    text = f"create the branch {new} in the repository {repo} and switch to it"
    return text, f"{repo} is now on the new branch {new}.", calls, [new]


def _after(kind: str, repository: dict[str, Any], old: str, new: str, file: str) -> None:
    """The state that the user wants, in place."""
    if kind in ("create", "create_and_switch"):
        repository["branches"] = sorted([*repository["branches"], new])
    if kind in ("switch", "create_and_switch"):
        repository["branch"] = old if kind == "switch" else new
    if kind == "stage":
        repository["staged"], repository["files"] = [file], []
