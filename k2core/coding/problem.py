"""What a coding problem is, and how a program is read out of an answer."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Literal

FENCED = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """A test of a program that reads and writes: what it is given, and what it must print."""

    input: str
    output: str


@dataclass(frozen=True)
class Suite:
    """Either assertions in Python about a function, or cases of a program that reads and writes."""

    code: str = ""
    cases: tuple[Case, ...] = ()


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: `SET/NAME`.
        text: what is asked.
        start: code that an answer continues or repeats, such as a signature; its helpers are there for the tests too.
        entry: the function that is tested; empty for a program that reads and writes.
        public: tests that an answer may be shown.
        hidden: tests that decide, and that no answer may see.
        gold: a right program, or empty where none is known.
    """

    id: str
    text: str
    start: str
    entry: str
    public: Suite
    hidden: Suite
    gold: str = ""
    split: Literal["train", "heldout"] = "heldout"
    set: str = field(default="")

    @property
    def style(self) -> str:
        """`function`, or `stdin`."""
        return "function" if self.entry else "stdin"

    def program(self, answer: str) -> str:
        """The program that an answer means: itself, or what continues `start`."""
        code = code_in(answer)
        if not self.start or (self.entry and self.entry in defined(code)):
            return f"{self.start}\n{code}" if whole(self.start) else code
        return self.start + code


def code_in(answer: str) -> str:
    """The last block of code between fences, or the whole answer if there is none."""
    blocks = FENCED.findall(answer)
    return blocks[-1] if blocks else answer


def defined(code: str) -> set[str]:
    """Names of functions and classes at the top of `code`, and of their methods; none if it cannot be parsed."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    return names | {each.name for node in classes for each in node.body if isinstance(each, ast.FunctionDef)}


def whole(code: str) -> bool:
    """Whether `code` can stand alone, as a signature with a docstring can."""
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True
