"""A second `make ui`: in one workspace it says who starts or serves the pages, in another it takes other ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock
from workspace import ROOT, Workspace

from flows import pages
from flows.servers import free_address


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


def test_a_port_is_given_out_once_though_nothing_listens_there_yet() -> None:
    first = free_address("http://127.0.0.1:4321")
    asked = "from flows.servers import free_address; print(free_address('http://127.0.0.1:4321'))"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", f"{asked}; input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        for _ in range(3)
    ]
    given = {first, *(other.stdout.readline().strip() for other in others if other.stdout)}
    for other in others:
        other.communicate("\n")
    assert len(given) == 4


def test_what_died_without_pages_is_crashed_and_other_pools_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [{"id": pool or "terminal", "work_pool_name": pool} for pool in (None, pages.POOL, "k2-kubernetes")]
    asked: list[str] = []

    def api(method: str, path: str, body: object = None) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(json=lambda: runs)

    monkeypatch.setattr(pages, "_api", api)
    monkeypatch.setattr(pages, "hold", lambda *_: nullcontext())
    pages.bury()
    assert asked == ["flow_runs/filter", "flow_runs/terminal/set_state", f"flow_runs/{pages.POOL}/set_state"]
