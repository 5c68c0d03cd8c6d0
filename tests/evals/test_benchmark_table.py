"""The table of the paper's benchmarks in docs/scoring.md names suites, stages and harness tasks that there are."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from workspace import ROOT

from k2core.recipe import modules_in

TABLE = (ROOT / "docs/scoring.md").read_text().partition("## The paper's benchmarks")[2]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.splitlines() if line.startswith("| ")][1:]
TASKS = re.findall(r"--harness ([\w-]+)", TABLE)
NOT_SUITES = {"extend_context", "evaluate", "programs.problems"}
"""Stages and a key of the recipe that the table names."""


def test_each_row_says_what_can_be_done() -> None:
    assert len(ROWS) > 20 and all(len(row) == 3 and row[0] and (row[1] or row[2]) for row in ROWS)
    named = {word for _, *cells in ROWS for cell in cells for word in re.findall(r"`([\w.]+)`", cell)}
    assert named - NOT_SUITES <= set(modules_in("k2core.evals.suites"))
    assert all((ROOT / "stages" / f"{name}.py").exists() for name in ("extend_context", "evaluate"))


def test_every_suite_is_described() -> None:
    above = (ROOT / "docs/scoring.md").read_text().partition("## lm-evaluation-harness")[0]
    described = {
        name for cell in re.findall(r"^\| (`.*?) \|", above, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    assert set(modules_in("k2core.evals.suites")) <= described


def test_the_harness_has_the_tasks() -> None:
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("lm-evaluation-harness is an extra: pip install 'lm-eval[api,hf]'")
    files = (Path(next(iter(spec.submodule_search_locations))) / "tasks").rglob("*.yaml")
    names = {
        name for file in files for name in re.findall(r"^(?:task|group): *([\w-]+)", file.read_text(), re.MULTILINE)
    }
    assert len(TASKS) > 15 and set(TASKS) <= names, set(TASKS) - names
