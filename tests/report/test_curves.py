"""Curves and yardsticks as the stages' files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.report.curves import bits_per_byte, collect
from k2core.report.results import Results, read_curves

STABLE = """step,train/loss,train/tokens_seen,val/bpb,val/bpb/code,val/bpb/web
10,5.1,1000000,,,
20,4.1,2000000,3.0,2.9,3.2
30,3.1,3000000,2.5,2.4,2.7
"""
DECAY = """step,train/loss,train/tokens_seen,val/bpb,val/bpb/code,val/bpb/web
10,3.0,4000000,,,
20,2.9,5000000,2.0,1.9,2.1
"""
FIGURES = {
    "pretrain-stable": {"train/tokens_seen": 3e6},
    "tokenize": {
        "tokens/train/web": 5.0, "yardstick/xz": 2.4, "yardstick/xz/code": 2.2, "yardstick/xz/web": 2.6,
        "yardstick/xz_after_training": 1.8, "yardstick/xz_after_training/code": 1.6,
    }
}  # fmt: skip


@pytest.fixture
def plots(tmp_path: Path) -> Path:
    for name, content in (("pretrain-stable", STABLE), ("extend_context", DECAY), ("sft", "step,train/loss\n1,2.0\n")):
        (tmp_path / f"{name}.csv").write_text(content)
    return tmp_path


def test_points_go_on_from_phase_to_phase(plots: Path) -> None:
    curves = collect(read_curves(plots), FIGURES)
    assert list(curves.points) == ["all", "code", "web"]
    assert curves.points["all"] == {"stable": [(2, 3.0), (3, 2.5)], "YaRN": [(3, 2.5), (5, 2.0)]}
    assert curves.ends == {"stable": 3, "YaRN": 5}
    untrained = {"heldout/bits_per_byte_before": 4.4, "heldout/bits_per_byte_before/web": 4.6}
    before = {"pretrain-stable": FIGURES["pretrain-stable"] | untrained}
    begun = collect(read_curves(plots), {**FIGURES, **before}).points
    assert begun["all"]["stable"][0] == (0, 4.4) and begun["web"]["stable"][0] == (0, 4.6)
    assert begun["code"] == curves.points["code"]
    assert curves.yardsticks["code"] == {"xz": 2.2, "xz_after_training": 1.6}
    assert curves.yardsticks["web"] == {"xz": 2.6}


def test_a_panel_a_domain(plots: Path) -> None:
    results = Results(FIGURES, read_curves(plots), [], [], [], [], {}, {}, {}, [], [], [], [])
    picture = bits_per_byte(results)
    assert [title.text for title in picture.layout.annotations] == ["all", "code", "web"]
    lines = [trace for trace in picture.data if trace.mode == "lines"]
    assert [trace.y[0] for trace in lines] == [2.4, 1.8, 2.2, 1.6, 2.6]
    assert all(trace.x == (0, 5) for trace in lines)
    assert len(picture.data) == 3 * 2 + 5
    assert len(picture.layout.shapes) == 3, "a line where stable ends, in each panel"


def test_no_picture_where_nothing_was_measured(plots: Path) -> None:
    curves = read_curves(plots)
    assert collect({"sft": curves["sft"]}, FIGURES) is None
    assert bits_per_byte(Results({}, {}, [], [], [], [], {}, {}, {}, [], [], [], [])) is None
