"""Whether an answer is right by a reasoning-gym data set's own rule, asked so that a text cannot cheat or do harm.

The rules were written for the answers of well-meaning models. Some evaluate the answer as Python, by `eval` or sympy's
`parse_expr`: these see only answers that are plain arithmetic or plain lists. Some look for the right answer within the
text: these see only texts with as many numbers and words as the right one. NaN, which compares as false, passes others,
and so does a right answer many times over: no answer may be much longer than the right one. A rule that raises an error
fails the answer.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from k2core.chat.special_tokens import SPECIAL_TOKENS

EVALUATING = frozenset((
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
))  # fmt: skip
"""The data sets whose rule evaluates the answer as code."""
SEARCHING = frozenset((
    "advanced_geometry", "fraction_simplification", "gsm_symbolic", "letter_jumble", "polynomial_equations", "sokoban",
    "time_intervals", "word_sorting",
))  # fmt: skip
"""The data sets whose rule looks for the answer within the text, and so would take the right one of several."""
UNSOUND = {
    "game_of_life_halting": "its rule passes any text",
    "puzzle24": "its rule passes any four numbers that make 24",
}
"""Data sets that reward what is wrong."""
TIMES, MORE = 4, 40
"""An answer has at most so many times the right one's characters, and so many more."""
LARGEST_TREE, LARGEST_POWER = 120, 32
"""Nodes and exponents of an answer that is evaluated, so that it ends soon."""
FUNCTIONS = frozenset(("sin", "cos", "tan", "exp", "log", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh"))
_NO_NUMBER = re.compile(r"(?<![a-z])(nan|inf|infinity)(?![a-z])", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_ARITHMETIC = (ast.BinOp, ast.Name, ast.Call)
_PLAIN = (
    *_ARITHMETIC, ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.UnaryOp, ast.Load,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.USub, ast.UAdd,
)  # fmt: skip


def is_right(name: str, data: Any, answer: str, entry: dict[str, Any]) -> bool:
    """Whether the answer to an entry of the data set `name` gets the full score of `data`, its object."""
    gold = gold_of(entry)
    if not answer or len(answer) > TIMES * len(gold) + MORE or any(token in answer for token in SPECIAL_TOKENS):
        return False
    if answer == gold:
        return True
    if _NO_NUMBER.search(answer) or (name in EVALUATING and not is_harmless(answer)):
        return False
    if name in SEARCHING and _size(answer) != _size(gold):
        return False
    try:
        return bool(data.score_answer(answer, entry) >= 1.0)
    except Exception:  # noqa: BLE001 (a rule of others, on what a model wrote: what it cannot read is wrong)
        return False


def _size(text: str) -> tuple[int, int]:
    """How many numbers and how many words it has."""
    return len(_NUMBER.findall(text)), len(text.split())


def gold_of(entry: dict[str, Any]) -> str:
    """A right answer: the entry's, or its example where many are right; empty if it has none in words."""
    examples = (entry["metadata"].get(key) for key in ("example_answer", "example_correct_answer"))
    return next((text.strip() for text in (entry["answer"], *examples) if isinstance(text, str)), "")


def is_harmless(text: str) -> bool:
    """Whether a text is arithmetic on numbers, one-letter names and `FUNCTIONS`, or lists of constants, and small."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = list(ast.walk(tree))
    words = any(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in nodes)
    if len(nodes) > LARGEST_TREE or (words and any(isinstance(node, _ARITHMETIC) for node in nodes)):
        return False  # sympy evaluates a text that is given to a function
    return all(isinstance(node, _PLAIN) and _is_small(node) for node in nodes)


def _is_small(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        inner = (other for argument in node.args for other in ast.walk(argument))
        return _is_function(node.func) and not node.keywords and not any(isinstance(other, ast.Call) for other in inner)
    if isinstance(node, ast.Name):
        return len(node.id) == 1 or _is_function(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return not any(isinstance(other, ast.Pow) for other in ast.walk(node.left)) and all(
            isinstance(other, ast.UnaryOp | ast.USub | ast.Div)
            or (isinstance(other, ast.BinOp) and isinstance(other.op, ast.Div))
            or (isinstance(other, ast.Constant) and isinstance(other.value, int) and abs(other.value) <= LARGEST_POWER)
            for other in ast.walk(node.right)
        )
    return True


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in FUNCTIONS
