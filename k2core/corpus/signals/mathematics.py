"""Mathematics signals: how much is digits, operators and LaTeX, and whether plain arithmetic is right.

General filters lose mathematics (K1.5, appendix B); these signals help to keep it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

COLUMNS = {
    "digit_share": "float32",
    "operator_share": "float32",
    "latex_commands": "int64",
    "equations": "int64",
    "wrong_equations": "int64",
    "right_equation_share": "float32",
}
DOMAIN = "math"
_OPERATORS = frozenset("+-*/=<>^×÷·±≤≥≠√∑∏∫")
_LATEX = re.compile(r"\\[A-Za-z]+|\\[()\[\]]|\$\$")
_LONGEST = 200
_SIDE = re.compile(rf"[-(]?[\d(][\d.,+\-*/×÷·() ]{{1,{_LONGEST}}}$")
"""The numbers, operators and brackets that a left side ends with."""
_RESULT = re.compile(r" *(-?\d++(?:,\d{3})*+(?:\.\d+)?+)(?!\w| *[-+*/×÷·^(%])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "·": "*"})


def attributes(text: str) -> dict[str, Any]:
    """Signals of one text; shares are of its characters, `right_equation_share` is 1 where nothing can be checked."""
    size = max(1, len(text))
    checked = [is_right for _, is_right in equations(text)]
    return {
        "digit_share": sum(map(str.isdecimal, text)) / size,
        "operator_share": sum(character in _OPERATORS for character in text) / size,
        "latex_commands": len(_LATEX.findall(text)),
        "equations": len(checked),
        "wrong_equations": checked.count(False),
        "right_equation_share": sum(checked) / len(checked) if checked else 1.0,
    }


def equations(text: str) -> Iterator[tuple[str, bool]]:
    """Each `a op b ... = c` over plain numbers in `text`, and whether it is right.

    A result with d decimals is right within half a unit of the last one. A side with letters, powers or
    anything else but plain numbers beside an operator is not checked.
    """
    for line in text.splitlines():
        for left, right in pairwise(line.split("=")):
            expression, result = _trailing(left), _RESULT.match(right)
            if not expression or not result or len(result[1]) > _LONGEST:
                continue
            value = _value(expression)
            if value is not None:
                number = result[1].replace(",", "")
                slack = Fraction(1, 2 * 10 ** len(number.partition(".")[2])) if "." in number else 0
                yield f"{expression} = {result[1]}", abs(value - Fraction(number)) <= slack


def _trailing(side: str) -> str:
    """The arithmetic that `side` ends with, or "" where it is part of something larger (`2x + 3`, `x - 1 + 2`)."""
    side = side.rstrip()
    found = _SIDE.search(side, max(0, len(side) - _LONGEST - 2))
    if not found:
        return ""
    before = side[: found.start()]
    if before[-1:].isalnum() or before[-1:] in ("_", "\\", ".", ",", "$", "}"):
        return ""
    return "" if before.rstrip()[-1:] in (*_OPERATORS, ")", "]", "}") else found[0]


def _value(expression: str) -> Fraction | None:
    """The value of `expression`; None where it is not arithmetic with at least one operation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(_THOUSANDS.sub("", expression.translate(_SIGNS)).strip(), mode="eval").body
        return _evaluate(tree) if isinstance(tree, ast.BinOp) else None
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.AST) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.UAdd, ast.USub)):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("no plain arithmetic")
