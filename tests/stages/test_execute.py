"""One execution of a stage, without a process of its own."""

from __future__ import annotations

import signal
import threading
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


def test_a_second_run_of_a_stage_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[str] = []

    def second() -> None:
        with executed._alone(tmp_path / "work" / "tag.lock", "tag"):
            ended.append("second")

    with executed._alone(tmp_path / "work" / "tag.lock", "tag"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        assert other.is_alive()
        ended.append("first")
    other.join(10)
    assert ended == ["first", "second"]
    assert capsys.readouterr().out == "[tag] waiting: another run of tag does the same here\n"
