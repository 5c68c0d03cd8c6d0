"""Code signals in the spirit of BigCode's rules: does it parse, how much of it is comment, did a person write it."""

from __future__ import annotations

import ast
import warnings
from typing import Any

COLUMNS = {
    "parses": "bool",
    "comment_share": "float32",
    "docstring_share": "float32",
    "mean_line_length": "float32",
    "max_line_length": "int64",
    "alphanumeric_share": "float32",
    "ascii_share": "float32",
}
DOMAIN = "code"
LONGEST = 2**20
"""Most characters of what is parsed: 16 MB of ``1,`` become gigabytes of syntax tree. Longer files are data."""


def attributes(text: str) -> dict[str, Any]:
    """Signals of one piece of Python source; the shares are of its characters."""
    lines = text.splitlines() or [""]
    size = max(1, len(text))
    tree = _parse(text)
    return {
        "parses": tree is not None,
        "comment_share": sum(len(line) for line in lines if line.lstrip().startswith("#")) / size,
        "docstring_share": _docstring_characters(tree) / size if tree else 0.0,
        "mean_line_length": sum(map(len, lines)) / len(lines),
        "max_line_length": max(map(len, lines)),
        "alphanumeric_share": sum(map(str.isalnum, text)) / size,
        # Rare characters are rare bytes to the tokenizer: lists of foreign stop words caused most loss spikes here.
        "ascii_share": len(text.encode("ascii", "ignore")) / size if text else 1.0,
    }


def _parse(text: str) -> ast.Module | None:
    if len(text) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # escapes and comparisons of other people's code
            return ast.parse(text.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _docstring_characters(tree: ast.Module) -> int:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, documented))
    return sum(len(ast.get_docstring(node, clean=False) or "") for node in nodes)
