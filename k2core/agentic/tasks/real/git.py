"""Tasks on a real git repository, executed by `mcp-server-git`."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.tasks.real_domain import RealDomain, Wish, call, check_plain
from k2core.agentic.tasks.script import at
from k2core.agentic.tools.simulator import State
from k2core.stage import StageError

REPOSITORIES = ("shop", "blog", "wiki", "game", "map", "radio", "bank", "lab")
BRANCHES = ("login", "search", "basket", "photos", "prices", "menus", "alerts", "themes", "exports", "quotes")
FILES = ("notes.txt", "plan.txt", "todo.txt", "ideas.txt", "costs.txt")
KINDS = ("create", "switch", "stage", "create_and_switch", "current")
_SWITCHED = "Switched to branch '(.+)'"


class Git(RealDomain):
    """One repository in a folder of its own: `{"git": {name: {"branch", "branches", "staged", "files"}}}`; `files` are
    untracked."""

    name = "git"
    system = "You work on git repositories."
    tools = ("git_add", "git_checkout", "git_create_branch", "git_status")
    environment = {  # noqa: RUF012 (a constant)
        "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "Author", "GIT_AUTHOR_EMAIL": "author@example.org",
        "GIT_AUTHOR_DATE": "2025-01-01T00:00:00Z", "GIT_COMMITTER_NAME": "Author",
        "GIT_COMMITTER_EMAIL": "author@example.org", "GIT_COMMITTER_DATE": "2025-01-01T00:00:00Z",
    }  # fmt: skip

    def wish(self, number: int, random: Random) -> Wish:
        kind = KINDS[number % len(KINDS)]
        name = f"{random.choice(REPOSITORIES)}-{number}"
        old, new = random.sample(BRANCHES, 2)
        file = random.choice(FILES)
        current = old if kind == "current" else "main"
        state: State = {
            "git": {name: {"branch": current, "branches": sorted(["main", old]), "staged": [], "files": [file]}}
        }
        clause, answer, calls, mentions = _plan(kind, name, old, new, file)
        end = copy.deepcopy(state)
        _after(kind, end["git"][name], old, new, file)
        tools = sorted({each["name"] for each in calls})
        if kind != "current":
            tools.append("git_status")
        return Wish(clause, kind == "current", answer, calls, tools, state, end, mentions)

    def make(self, folder: Path, state: State) -> None:
        super().make(folder, state)
        for name, wanted in state.get("git", {}).items():
            check_plain(name, wanted["branch"], *wanted["branches"], *wanted["files"])
            path = folder / name
            path.mkdir()
            _git(path, "init", "--quiet", f"--initial-branch={wanted['branch']}")
            _git(path, "commit", "--quiet", "--allow-empty", "--message=Start")
            for branch in wanted["branches"]:
                if branch != wanted["branch"]:
                    _git(path, "branch", branch)
            for file in wanted["files"]:
                (path / file).write_text(f"{file}\n")

    def state(self, folder: Path, initial: State) -> State:
        return {"git": {name: _now(folder / name) for name in initial["git"]}}

    def refusal(self, arguments: Mapping[str, Any], folder: Path, initial: State) -> str:
        name = arguments.get("repo_path")
        if option := next((text for text in _texts(dict(arguments)) if text.startswith("-")), None):
            return f"{option[:40]} would be an option of git's"
        return "" if name in initial["git"] else f"no repository {str(name)[:40]}"


DOMAIN = Git()


def _plan(kind: str, repo: str, old: str, new: str, file: str) -> tuple[str, str, list[dict[str, Any]], list[str]]:
    """What the user says, a good answer, the calls, and what the answer must mention."""
    created = {"value": at(0, find="Created branch '(.+?)'")}
    if kind == "create":
        calls = [call("git_create_branch", {"words": "branch_created", **created}, repo_path=repo, branch_name=new)]
        return f"create the branch {new} in the repository {repo}", f"I created the branch {new}.", calls, [new]
    if kind == "switch":
        calls = [call("git_checkout", _branch(repo, 0, _SWITCHED), repo_path=repo, branch_name=old)]
        text = f"switch the repository {repo} to the branch {old}"
        return text, f"{repo} is now on the branch {old}.", calls, [old]
    if kind == "stage":
        says = {"words": "staged", "thing": file, "proof": at(0, find="(staged successfully)")}
        calls = [call("git_add", says, repo_path=repo, files=[file])]
        return f"stage the file {file} in the repository {repo}", f"I staged the file {file}.", calls, [file]
    if kind == "current":
        calls = [call("git_status", _branch(repo, 0, r"On branch (\S+)"), repo_path=repo)]
        return f"on which branch is the repository {repo}", f"{repo} is on the branch {old}.", calls, [old]
    calls = [
        call("git_create_branch", created, repo_path=repo, branch_name=new),
        call("git_checkout", _branch(repo, 1, _SWITCHED), 1, repo_path=repo, branch_name=new),
    ]
    text = f"create the branch {new} in the repository {repo} and switch to it"
    return text, f"{repo} is now on the new branch {new}.", calls, [new]


def _branch(repo: str, number: int, pattern: str) -> dict[str, Any]:
    """How to say the branch that the result of call `number` names."""
    return {"words": "branch", "key": repo, "value": at(number, find=pattern)}


def _after(kind: str, repository: dict[str, Any], old: str, new: str, file: str) -> None:
    """The state that the user wants, in place."""
    if kind in ("create", "create_and_switch"):
        repository["branches"] = sorted([*repository["branches"], new])
    if kind in ("switch", "create_and_switch"):
        repository["branch"] = old if kind == "switch" else new
    if kind == "stage":
        repository["staged"], repository["files"] = [file], []


def _now(path: Path) -> dict[str, Any]:
    return {
        "branch": _git(path, "branch", "--show-current").strip(),
        "branches": sorted(_git(path, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()),
        "staged": sorted(_git(path, "diff", "--cached", "--name-only").split()),
        "files": sorted(_git(path, "ls-files", "--others").split()),
    }


def _git(path: Path, *arguments: str) -> str:
    command = ["git", "-C", str(path), *arguments]
    done = subprocess.run(command, env=os.environ | Git.environment, capture_output=True, text=True)
    if done.returncode:
        raise StageError(f"`{' '.join(command)}` failed: {done.stderr.strip()[:200]}")
    return done.stdout


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
