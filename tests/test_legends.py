"""Names of tensors end in their axes, and each file that has such names says what the letters mean."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from workspace import ROOT

SUFFIX = re.compile(r"_?[a-z][a-z0-9_]*_(?=[A-Za-z0-9]*[A-Z])([A-Za-z0-9]{1,6})")
FILES = [
    path for room in ("k2core", "stages", "flows", "benchmarks", "experiments") for path in (ROOT / room).rglob("*.py")
]


def suffixed(tree: ast.AST) -> dict[str, str]:
    """Letter → a name that ends in it."""
    names = set()
    for node in ast.walk(tree):
        names |= {getattr(node, field, None) for field in ("id", "arg", "attr")}
    found = ((match[1], name) for name in sorted(filter(None, names)) if (match := SUFFIX.fullmatch(name)))
    return {letter: name for letters, name in found for letter in letters if letter.isalpha()}


def legend(tree: ast.Module) -> set[str]:
    """The letters that the paragraph `Shapes: B sequences, T positions, d = n + r.` of a docstring names."""
    text = re.search(r"^Shapes: (.+?)\.$", ast.get_docstring(tree) or "", re.MULTILINE | re.DOTALL)
    items = " ".join(text[1].split()).split(", ") if text else []
    return {item[0] for item in items if re.match(r"[A-Za-z] ", item)}


def test_each_letter_of_a_shape_stands_in_its_files_legend():
    wrong, count = [], 0
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        letters = suffixed(tree)
        count += bool(letters)
        lacking = sorted(set(letters) - legend(tree))
        wrong += [f"{path.relative_to(ROOT)}: {letter} of {letters[letter]}" for letter in lacking]
    assert count > 40
    assert not wrong, "add to the paragraph `Shapes:` of the module's docstring:\n" + "\n".join(wrong)


@pytest.mark.parametrize("text", ["x_BT = 1", '"""Words.\n\nShapes: B rows, t positions.\n"""\nx_BT = 1'])
def test_a_letter_without_a_meaning_is_found(text: str):
    tree = ast.parse(text)
    assert "T" in set(suffixed(tree)) - legend(tree)


def test_what_is_no_shape_needs_none():
    assert not suffixed(ast.parse("LONG_NAME = plain_name = _private = a_b = Name_T = 1"))


def test_files_are_found():
    assert Path(ROOT / "k2core/model/mla.py") in FILES
