"""What takes Prefect long is done once: one `make ui` for all tests of the pages, one database for the other ones.

Each test makes its own runs. The database of `make ui` is made by itself, and so are those of tests/security.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pages import Pages
from workspace import ROOT, Workspace, make_workspace


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """`make ui` on the toy chain, whose files are committed."""
    toy = make_workspace(tmp_path_factory.mktemp("pages") / "toy", ROOT / "tests" / "toy")
    toy.run("git", "add", "-A")
    toy.run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "as it is")
    running = Pages(toy)
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def toy(with_history: Workspace) -> Workspace:
    return with_history
