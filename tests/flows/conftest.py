"""One `make ui` for all tests of the pages: it takes most of a minute to come up, and each test makes its own runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pages import Pages
from workspace import ROOT, make_workspace


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
