"""The verdict on a program: it passes if all its tests pass, whatever else it does."""

from __future__ import annotations

import ast
import builtins
import marshal
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

from k2core.coding.problem import Case, Problem, Suite, whole
from k2core.sandbox.backends import create
from k2core.sandbox.base import Limits

LIMITS = Limits(wall=6.0, cpu=5)
PASSED = b"passed\n"
SHOWN = 400
"""Characters of a failure that are told."""


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and why not, in words for a person; hidden tests' words are for no model."""

    passed: bool
    reason: str = ""


def judge(problem: Problem, program: str, tests: Suite | None = None, limits: Limits = LIMITS) -> Verdict:
    """Run a program against the problem's hidden tests, or others.

    Raises:
        SandboxError: no code can be run safely here.
    """
    tests = tests or problem.hidden
    if not tests.code and not tests.cases:
        return Verdict(False, "there is no test")
    return _called(problem, program, tests.code, limits) if problem.entry else _run(program, tests.cases, limits)


def _called(problem: Problem, program: str, tests: str, limits: Limits) -> Verdict:
    context = problem.start if whole(problem.start) else ""
    names = sorted(_unbound(tests, context) | {problem.entry})
    request = {"program": program, "context": context, "tests": tests, "names": names}
    with create(limits) as sandbox:
        result = sandbox.exec(["python", "-c", _harness()], marshal.dumps(request), keep=False)
    if result.stdout == PASSED and result.status == 0:
        return Verdict(True)
    if result.timed_out:
        return Verdict(False, f"no end within {limits.wall:g} s")
    return Verdict(False, result.stderr.decode("utf-8", "replace").strip()[-SHOWN:] or f"ended with {result.status}")


def _run(program: str, cases: Sequence[Case], limits: Limits) -> Verdict:
    for number, case in enumerate(cases):
        with create(limits, {"main.py": program.encode("utf-8", "replace")}) as sandbox:
            result = sandbox.exec(["python", "main.py"], case.input.encode(), keep=False)
        if result.timed_out:
            return Verdict(False, f"case {number}: no end within {limits.wall:g} s")
        if result.status:
            said = result.stderr.decode("utf-8", "replace").strip()[-SHOWN:]
            return Verdict(False, f"case {number}: ended with {result.status}: {said}")
        if not same_output(result.text, case.output):
            return Verdict(False, f"case {number}: printed {result.text[:SHOWN]!r}")
    return Verdict(True)


def same_output(printed: str, wanted: str) -> bool:
    """Whether two outputs have the same words in the same lines; numbers may be written differently."""
    ours, theirs = ([line.split() for line in text.strip().splitlines()] for text in (printed, wanted))
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(map(_same_word, a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def _same_word(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return Decimal(a) == Decimal(b)
    except InvalidOperation:
        return False


def _unbound(tests: str, context: str) -> set[str]:
    """Names that the tests use and that neither they, nor the context, nor Python defines: the program's."""
    nodes = [node for code in (context, tests) for node in ast.walk(ast.parse(code))]
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    used = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return used - bound - set(dir(builtins)) - {"listed"}


@cache
def _harness() -> str:
    return Path(__file__).with_name("harness.py").read_text()
