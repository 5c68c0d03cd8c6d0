"""One execution of a stage, without a process of its own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import get_type_hints

import pytest

from k2core.recipe import Section, read_recipe
from k2core.stage import Metrics
from k2core.stage import execute as executed


class Steps(Section):
    steps: int


class Seed(Section):
    seed: int


def run(params: Steps, compute: Seed, out: Path) -> Metrics:
    out.write_text(f"{params.steps} {compute.seed}")
    return {"steps": float(params.steps)}


def test_the_recipe_is_read_once_for_all_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("count: {steps: 3}\ncompute: {seed: 7}\n")
    read: list[Path] = []

    def counted(path: Path) -> dict:
        read.append(path)
        return read_recipe(path)

    monkeypatch.setattr(executed, "read_recipe", counted)
    before = signal.getsignal(signal.SIGTERM)
    try:
        arguments = {"out": Path("out.txt")}
        executed.execute(run, "count", get_type_hints(run), Path("params.yaml"), None, arguments, recorded=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Path("out.txt").read_text() == "3 7"
    assert read == [Path("params.yaml")]
