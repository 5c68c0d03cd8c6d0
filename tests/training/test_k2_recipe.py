"""`recipes/k2.yaml` says what the report says (K2 §2.5)."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from k2core.optim.config import MuonClipConfig
from k2core.recipe import load_section
from k2core.training.phases import Extension, Phase

RECIPE = Path("recipes/k2.yaml")
PHASES = {name: load_section(Phase, RECIPE, "pretrain", name) for name in ("stable", "decay", "anneal", "long")}
RATE = load_section(MuonClipConfig, RECIPE, "optimizer").muon_lr


def rate(phase: str, step: int) -> float:
    """Learning rate at a step of a phase; from its end if negative."""
    steps = PHASES[phase].steps
    return RATE * PHASES[phase].schedule.over(steps)(step % steps)


def test_tokens_batches_and_contexts():
    assert [phase.tokens for phase in PHASES.values()] == [10e12, 5.5e12, 400e9, 60e9]
    assert all(phase.batch_tokens == pytest.approx(67e6, rel=0.002) for phase in PHASES.values())
    assert [phase.context_length for phase in PHASES.values()] == [4096, 4096, 4096, 32768]
    assert load_section(Extension, RECIPE, "extend_context").context_length == 131072


def test_the_curve_at_the_points_that_the_report_names():
    assert rate("stable", 0) < rate("stable", 250) < 2e-4
    assert rate("stable", 500) == rate("stable", -1) == pytest.approx(2e-4)
    assert rate("decay", PHASES["decay"].steps // 2) == pytest.approx((2e-4 + 2e-5) / 2, rel=1e-3)
    assert rate("decay", -1) == pytest.approx(2e-5)
    assert rate("anneal", 0) == pytest.approx(2e-5)
    assert rate("long", -1) == pytest.approx(7e-6)


def test_no_jump_at_a_seam():
    names = list(PHASES)
    for before, after in itertools.pairwise(names):
        assert rate(before, -1) == pytest.approx(rate(after, 0), rel=1e-3)


def test_weight_decay_and_threshold():
    config = load_section(MuonClipConfig, RECIPE, "optimizer")
    assert (config.weight_decay, config.momentum, config.qk_clip_threshold) == (0.1, 0.95, 100.0)
