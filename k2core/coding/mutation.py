"""Small mistakes in a function, such as programmers make, each with its reason; the rest of the text stays as it is.

They are what a wrong answer looks like: in proofs that hidden tests notice one, and as the bugs of repository tasks.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", "<=", "off by one at a boundary"), ast.LtE: ("<=", "<", "off by one at a boundary"),
    ast.Gt: (">", ">=", "off by one at a boundary"), ast.GtE: (">=", ">", "off by one at a boundary"),
    ast.Eq: ("==", "!=", "a condition the wrong way round"), ast.NotEq: ("!=", "==", "a condition the wrong way round"),
    ast.In: ("in", "not in", "a condition the wrong way round"),
    ast.NotIn: ("not in", "in", "a condition the wrong way round"),
    ast.Is: ("is", "is not", "a condition the wrong way round"),
    ast.IsNot: ("is not", "is", "a condition the wrong way round"),
}  # fmt: skip
OPERATIONS = {
    ast.Add: ("+", "-", "the wrong sign"), ast.Sub: ("-", "+", "the wrong sign"),
    ast.Mult: ("*", "//", "the inverse operation"), ast.FloorDiv: ("//", "%", "a quotient for a remainder"),
    ast.Mod: ("%", "//", "a remainder for a quotient"), ast.Div: ("/", "*", "the inverse operation"),
    ast.LShift: ("<<", ">>", "the wrong direction"), ast.RShift: (">>", "<<", "the wrong direction"),
    ast.BitAnd: ("&", "|", "any for all"), ast.BitOr: ("|", "&", "all for any"),
}  # fmt: skip
PAIRS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "lower": "upper", "upper": "lower",
    "startswith": "endswith", "endswith": "startswith", "lstrip": "rstrip", "rstrip": "lstrip", "floor": "ceil",
    "ceil": "floor", "keys": "values", "find": "rfind",
}  # fmt: skip
LARGEST = 100


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes:
        source: the whole file with it.
        line: its line, from 1.
        before, after: that line without and with it.
    """

    source: str
    function: str
    line: int
    reason: str
    before: str
    after: str


def functions(source: str) -> list[tuple[str, ast.FunctionDef]]:
    """The functions and methods of a file by qualified name, in order, without those inside of others."""
    found = []
    for node in ast.parse(source).body:
        prefix, body = (f"{node.name}.", node.body) if isinstance(node, ast.ClassDef) else ("", [node])
        found += [(prefix + each.name, each) for each in body if isinstance(each, ast.FunctionDef)]
    return found


def mutations(source: str, names: set[str] | None = None) -> Iterator[Mutation]:
    """The mistakes that functions `names` (default: all) can have, in the order of the text.

    Raises:
        SyntaxError: `source` is no Python.
    """
    data = source.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for name, function in functions(source):
        if names is not None and name not in names:
            continue
        edits = [
            edit for statement in function.body for node in ast.walk(statement) for edit in _edits(node, data, starts)
        ]
        for start, end, text, reason in sorted(set(edits)):
            changed = data[:start] + text.encode() + data[end:]
            number = data.count(b"\n", 0, start) + 1
            try:
                ast.parse(mutated := changed.decode())
            except (SyntaxError, ValueError):
                continue
            yield Mutation(
                mutated, name, number, reason, source.splitlines()[number - 1], mutated.splitlines()[number - 1]
            )  # fmt: skip


def _edits(node: ast.AST, data: bytes, starts: list[int]) -> Iterator[tuple[int, int, str, str]]:
    """`(first byte, last byte, new text, reason)` of each change of one node."""

    def span(of: ast.expr) -> tuple[int, int]:
        assert of.end_lineno and of.end_col_offset is not None
        return starts[of.lineno - 1] + of.col_offset, starts[of.end_lineno - 1] + of.end_col_offset

    def between(left: ast.expr, right: ast.expr, old: str, new: str, why: str) -> Iterator[tuple[int, int, str, str]]:
        start, end = span(left)[1], span(right)[0]
        at = data.find(old.encode(), start, end)
        if at >= 0 and b"#" not in data[start:end]:
            yield at, at + len(old), new, why

    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in COMPARISONS:
            yield from between(left, right, *COMPARISONS[type(operator)])
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATIONS:
            if not any(
                isinstance(side, ast.Constant | ast.JoinedStr) and not _is_number(side) for side in (left, right)
            ):
                yield from between(left, right, *OPERATIONS[type(operation)])
        case ast.BoolOp(op=ast.And(), values=[left, right, *_]):
            yield from between(left, right, "and", "or", "any for all")
        case ast.BoolOp(op=ast.Or(), values=[left, right, *_]):
            yield from between(left, right, "or", "and", "all for any")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield span(node)[0], span(operand)[0], "", "a negation that was forgotten"
        case ast.Constant(value=bool() as value):
            yield *span(node), str(not value), "the wrong default"
        case ast.Constant(value=int() as value) if value <= LARGEST:
            yield *span(node), str(value + 1), "a number that is one too large"
        case ast.Call(func=ast.Name(id=name) as called) if name in PAIRS:
            yield *span(called), PAIRS[name], f"{PAIRS[name]} for {name}"
        case ast.Call(func=ast.Attribute(attr=name) as called) if name in PAIRS:
            end = span(called)[1]
            yield end - len(name), end, PAIRS[name], f"{PAIRS[name]} for {name}"
        case ast.Call(args=[ast.Name(id=first) as one, ast.Name(id=second) as two]) if first != second:
            (start, stop), (begin, end) = span(one), span(two)
            yield start, end, second + data[stop:begin].decode() + first, "arguments in the wrong order"


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)
