"""What ends a pipeline run's record: the figures of stages that the lock knows, and of nothing else that lies there."""

from __future__ import annotations

import json
from pathlib import Path

from k2core.tracking.recorder import last_words


def test_a_metrics_file_of_a_stage_that_the_lock_does_not_know_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    for name in ("pretrain-stable", "evaluate-sft"):
        (tmp_path / "metrics" / f"{name}.json").write_text(json.dumps({"figure": 1.0}))
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  pretrain@stable:\n    cmd: x\n    outs: [{path: models/stable, md5: a}]\n"
    )
    assert last_words(tmp_path)["metrics"] == {"pretrain-stable.json": {"figure": 1.0}}
    (tmp_path / "dvc.lock").unlink()
    assert last_words(tmp_path)["metrics"] == {}
