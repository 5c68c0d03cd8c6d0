"""Scratch of other code is never continued, whatever kind of file has changed; DVC counts the same kinds as code."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.stage.digest import CODE_SUFFIXES, code_digest
from stages.closure import closure

KINDS = [f"k2core/room/{suffix.removeprefix('.')}{suffix}" for suffix in CODE_SUFFIXES]
"""One file of each kind; the source file names the data files."""
FILES = ("stages/s.py", *KINDS)
INERT = ("k2core/tracking/runs.py", "k2core/lineage/told.py", "stages/needs/rl.py", "k2core/room/__pycache__/py.so")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (*FILES, *INERT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    (tmp_path / "stages/s.py").write_text("import k2core.room.py\nimport k2core.tracking.runs")
    (tmp_path / "k2core/room/py.py").write_text(f"FILES = {[Path(name).name for name in KINDS]}")
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_an_edit_of_any_kind_changes_it(root: Path, name: str) -> None:
    before = code_digest(root)
    (root / name).write_text("edited = 2")
    assert code_digest(root) != before


@pytest.mark.parametrize("name", INERT)
def test_what_cannot_change_an_output_does_not(root: Path, name: str) -> None:
    before = code_digest(root)
    (root / name).write_text("edited = 2")
    assert code_digest(root) == before


def test_a_stage_depends_on_the_same_kinds(root: Path) -> None:
    for number in range(2 * len(FILES)):  # else the folder stands for its files
        (root / f"k2core/room/unused{number}.py").write_text("y = 1")
    assert closure("stages.s", root) == sorted(FILES)
