"""Who holds the workspace: a run's own processes pass, all others are told who it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT

from k2core.tracking.holding import held_by_another, hold

ASK = "import sys, pathlib, k2core.tracking.holding as h; print(h.held_by_another(pathlib.Path(sys.argv[1])))"


def test_a_runs_own_processes_pass_and_others_are_told_who_holds_it(tmp_path: Path) -> None:
    assert held_by_another(tmp_path) == "", "nobody"
    with hold(tmp_path, {"flow run": "laptop"}):
        child = [sys.executable, "-c", ASK, str(tmp_path)]
        assert subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "\n"
        owner = tmp_path / "work" / "pipeline.json"
        owner.write_text(json.dumps({**json.loads(owner.read_text()), "pid": "999999999"}))  # nobody above this process
        assert held_by_another(tmp_path) == (
            "this workspace is held by another pipeline run (pid 999999999, flow run laptop); wait for it or cancel it"
        )
        owner.unlink()
        assert "its name is not known yet" in held_by_another(tmp_path)
    assert held_by_another(tmp_path) == ""


def test_what_a_killed_run_has_left_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "pipeline.json").write_text('{"pid": "999999999"}')
    (tmp_path / "work" / "pipeline.lock").touch()
    assert held_by_another(tmp_path) == ""
    with hold(tmp_path, {}):
        pass


def test_a_recipe_is_not_chosen_while_a_run_works_with_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.__main__ import use

    for name in ("dvc.yaml", "recipes", "styles", "declarations"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text("of the run\n")
    monkeypatch.chdir(tmp_path)
    with hold(tmp_path, {"flow run": "laptop"}):
        with pytest.raises(SystemExit, match=r"held by another pipeline run \(pid \d+, flow run laptop\); wait for it"):
            use("micro")
    assert (tmp_path / "params.yaml").read_text() == "of the run\n"
    use("micro")
    assert "micro" in (tmp_path / "params.yaml").read_text()
