"""Another `dvc` in the folder, such as a `dvc repro` that is about to be refused, does not end a run of the flow."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dvc.lock import LockError

from flows.graph import patiently
from flows.workspace import ProcessTrees, TransientFailure

BUSY = "ERROR: failed to reproduce 'ingest': '/k2/data/sources.yaml' is busy, it is being blocked by:"


def test_a_lock_of_dvc_is_waited_for_and_not_for_ever() -> None:
    tried = []

    def ask() -> str:
        tried.append(1)
        if len(tried) == 1:
            raise LockError("busy")
        return "status"

    assert patiently(ask) == "status" and len(tried) == 2
    tried.clear()
    with pytest.raises(LockError):
        patiently(ask, seconds=0.0)


def test_a_stage_whose_files_are_in_use_is_worth_another_try(tmp_path: Path) -> None:
    words = [sys.executable, "-c", f"print({BUSY!r}); print('  (PID 1): dvc repro'); raise SystemExit(255)"]
    (tmp_path / "logs").mkdir()
    with pytest.raises(TransientFailure):
        ProcessTrees().run(words, tmp_path, tmp_path / "logs" / "ingest.log", 60, lambda _: None)
