"""Shared fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import ROOT, Workspace, make_workspace


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace with the toy chain."""
    workspace = make_workspace(tmp_path / "toy", ROOT / "tests" / "toy")
    yield workspace
    for process in [*workspace.processes("stages."), *workspace.processes("flows."), *workspace.processes("prefect")]:
        process.kill()
