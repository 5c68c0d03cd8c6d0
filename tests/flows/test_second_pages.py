"""A second `make ui` says who starts or serves the pages."""

from __future__ import annotations

import json
import os

import psutil
from filelock import FileLock
from workspace import Workspace


def test_while_the_first_is_starting_it_is_named_and_what_to_do_is_said(toy: Workspace) -> None:
    work = toy.root / "work"
    work.mkdir(exist_ok=True)
    me = {"pid": str(os.getpid()), "born": str(psutil.Process().create_time())}
    (work / "pages.json").write_text(json.dumps(me))
    with FileLock(work / "pages.lock"):
        second = toy.run("python", "-m", "flows.pages", check=False)
    assert second.returncode == 1
    assert f"is starting for this workspace in another terminal (pid {os.getpid()})" in second.stderr
    assert "type `make ui` again then" in second.stderr
