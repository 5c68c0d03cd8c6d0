"""Rows of the plot: means, extremes, state that survives JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

from k2core.training.history import History


def test_means_extremes_and_totals(tmp_path: Path) -> None:
    history = History(2)
    history.add({"train/loss": 1.0, "qk_clip/max_logit": 5.0, "qk_clip/min_gamma": 0.9, "spike/score": 4.0})
    resumed = History(2)
    resumed.restore(json.loads(json.dumps(history.state())))
    for one in (history, resumed):
        one.add(
            {
                "train/loss": 2.0,
                "qk_clip/max_logit": 3.0,
                "qk_clip/min_gamma": 1.0,
                "moe/x": math.inf,
                "spike/score": 2.0,
            }
        )
        row = one.close(2, {"train/tokens_seen": 10.0})
        means = {"train/loss": 1.5, "qk_clip/max_logit": 5.0, "qk_clip/min_gamma": 0.9, "spike/score": 4.0}
        assert row == {"step": 2.0, **means, "train/tokens_seen": 10.0}
        one.close(3, {"train/tokens_seen": 20.0})
        one.write(tmp_path / "plot.csv")
        lines = (tmp_path / "plot.csv").read_text().splitlines()
        assert lines[0] == "step,qk_clip/max_logit,qk_clip/min_gamma,spike/score,train/loss,train/tokens_seen"
        assert lines[1:] == ["2,5,0.9,4,1.5,10", "3,,,,,20"]
