"""The workspace that the tests of lineage ask about."""

from __future__ import annotations

from pathlib import Path

import pytest
from lineage_fixture import make

from k2core.lineage.chain import Chain


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a small chain has run; read only."""
    return make(tmp_path_factory.mktemp("lineage") / "workspace")


@pytest.fixture(scope="session")
def sft(made: Path) -> Chain:
    """The chain behind its last model."""
    return Chain.behind(made, "models/sft")
