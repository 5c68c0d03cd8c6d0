"""A repository task: a mistake in a package, the tests that show it, and what a user writes about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from k2core.coding.mutation import Mutation
from k2core.stage import StageError
from k2core.storage import split_of
from k2core.swe.repository import Repository, is_test, repository
from k2core.swe.testing import Outcome, run_tests

Task = dict[str, Any]
Files = Mapping[str, bytes]
HELDOUT_SHARE = 0.2
SHOWN = 3
BLOCK = re.compile(r"^(\S+\.py)\n<{5,} SEARCH\n(.*?)^={5,}\n(.*?)^>{5,} REPLACE", re.MULTILINE | re.DOTALL)
MACHINERY = """
pytest _pytest unittest pluggy conftest sys os atexit signal gc inspect ctypes builtins importlib runpy subprocess
getattr threading multiprocessing exec eval compile __import__ globals vars setattr delattr exit quit _exit modules
settrace setprofile _getframe __subclasses__ __globals__ __builtins__ __code__ __main__ __class__ __dict__
SystemExit KeyboardInterrupt open
"""
"""Names by which code in a test's process can reach the tests themselves. A mend adds none of them to a file."""


def make(
    repository: Repository, path: str, mutation: Mutation, tests: Sequence[str], passing: Set[str], after: Outcome
) -> Task:
    """The task of a mistake.

    Args:
        tests: the files of tests that decide.
        passing: those of their tests that pass in the package as it is.
        after: the outcome of all of them with the mistake.
    """
    failing = sorted(passing - after.passed)
    number = f"{mutation.line}-{mutation.after.strip()}"
    name = f"swe/{repository.name}/{path.removeprefix(repository.name + '/')}:{mutation.line}"
    return {
        "id": name, "split": split_of(f"{repository.name}/{path}/{mutation.function}/{number}", HELDOUT_SHARE),
        "package": repository.name, "version": repository.version, "license": repository.license,
        "digest": repository.digest, "path": path, "function": mutation.function, "line": mutation.line,
        "reason": mutation.reason, "before": mutation.before, "after": mutation.after, "tests": list(tests),
        "passing": sorted(passing), "failing": failing, "issue": issue(repository, failing, after),
    }  # fmt: skip


def issue(repository: Repository, failing: Sequence[str], outcome: Outcome) -> str:
    """What a user writes who sees the tests fail, in words and with what pytest says; it names no cause."""
    first = failing[0]
    said = [line for line in outcome.errors.get(first, "").splitlines() if line.startswith(("E  ", ">"))]
    others = ", ".join(test.rpartition("::")[2] for test in failing[1 : SHOWN + 1])
    more = f" It is not alone: {others}{' and more' if len(failing) > SHOWN + 1 else ''} fail too." if others else ""
    return (
        f"{first.rpartition('::')[2]} fails in {repository.name} {repository.version}. Running {first} gives\n\n"
        + "\n".join(line[:160] for line in said[:12])
        + f"\n\nIt passed before the last change.{more}"
    )


def broken(task: Task) -> dict[str, bytes]:
    """The files of the task's repository with its mistake.

    Raises:
        StageError: another version of the package is installed.
    """
    package = repository(task["package"])
    if package.digest != task["digest"]:
        raise StageError(
            f"{task['id']}: made from {task['package']} {task['version']}, but the installed files differ; "
            "run the stage `programs` again"
        )
    lines = package.files[task["path"]].decode().splitlines(keepends=True)
    at = task["line"] - 1
    lines[at] = lines[at].replace(task["before"], task["after"])
    return {**package.files, task["path"]: "".join(lines).encode()}


def gold_patch(task: Task) -> str:
    """The answer that mends the mistake, as blocks of search and replace."""
    old, new = mend(task, broken(task)[task["path"]].decode().splitlines(keepends=True), "")
    return f"{task['path']}\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n"


def mend(task: Task, lines: Sequence[str], between: str) -> tuple[str, str]:
    """The text around the mistake that the broken file has once, and what takes its place.

    Args:
        lines: of the file.
        between: what joins them: nothing, if they have their ends.
    """
    text, at = between.join(lines), task["line"] - 1
    first = last = at
    while text.count(between.join(lines[first : last + 1])) > 1:
        first, last = max(0, first - 1), min(len(lines) - 1, last + 1)
    new = [*lines[first:at], lines[at].replace(task["after"], task["before"]), *lines[at + 1 : last + 1]]
    return between.join(lines[first : last + 1]), between.join(new)


def patched(files: Files, answer: str) -> dict[str, bytes]:
    """`files` after the blocks of an answer.

    Raises:
        ValueError: there is no block, or one does not fit; says which.
    """
    blocks = BLOCK.findall(answer)
    if not blocks:
        raise ValueError("there is no block of SEARCH and REPLACE")
    changed = dict(files)
    for path, old, new in blocks:
        changed[path] = edited(changed, path, old, new)
    return changed


def edited(files: Files, path: str, old: str, new: str) -> bytes:
    """A file with `old`, which must be there once, replaced.

    Raises:
        ValueError: no such file or text, or the text more than once.
    """
    if path not in files:
        raise ValueError(f"there is no file {path}")
    text = files[path].decode("utf-8", "replace")
    if text.count(old) != 1 or not old:
        raise ValueError(f"{path} has the text {text.count(old) if old else 0} times; give one that it has once")
    return text.replace(old, new).encode()


def tampering(task: Task, files: Files) -> str:
    """What a solution does beside mending the package's code; empty if nothing."""
    before = broken(task)
    for path in sorted({*before, *files}):
        if files.get(path) == before.get(path):
            continue
        if path not in files or path not in before:
            return f"{path} is {'deleted' if path in before else 'new'}"
        if is_test(path) or not path.endswith(".py"):
            return f"{path} is no source of the package"
        try:
            added = _names(files[path]) - _names(before[path])
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return f"{path} is no Python"
        if added := added & {*MACHINERY.split()}:
            return f"{path} reaches for {', '.join(sorted(added))}"
    return ""


def _names(source: bytes) -> set[str]:
    """Every name, attribute, module and short text of a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.alias(name=name):
                found.update(name.split("."))
            case ast.ImportFrom(module=str(name)):
                found.update(name.split("."))
            case ast.Constant(value=str(text)) if len(text) < 40:
                found.add(text)
    return found


def verdict(task: Task, files: Files) -> str:
    """Why a solution fails; empty if it passes: every test that passed before the mistake passes again.

    Raises:
        SandboxError: no code can be run safely here.
    """
    if reason := tampering(task, files):
        return reason
    package = repository(task["package"])
    outcome = run_tests(package, files, task["tests"])
    if outcome.fault:
        return outcome.fault
    lost = sorted(set(task["passing"]) - outcome.passed)
    return f"{lost[0]} and {len(lost) - 1} more fail" if lost else ""
