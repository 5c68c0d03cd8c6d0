"""Scratch of other code is never continued, whatever kind of file has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.stage import code_digest

FILES = ("k2core/a.py", "k2core/ops/cpu/k.c", "k2core/ops/cpu/k.h", "k2core/agentic/p.yaml", "k2core/chat/t.jinja",
         "stages/s.py", "stages/note.md")  # fmt: skip
INERT = ("k2core/tracking/runs.py", "k2core/lineage/told.py", "stages/needs/rl.py", "k2core/__pycache__/a.so")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*FILES, *INERT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_an_edit_of_any_kind_changes_it(root: Path, name: str) -> None:
    before = code_digest(root)
    (root / name).write_text("edited")
    assert code_digest(root) != before


@pytest.mark.parametrize("name", INERT)
def test_what_cannot_change_an_output_does_not(root: Path, name: str) -> None:
    before = code_digest(root)
    (root / name).write_text("edited")
    assert code_digest(root) == before
