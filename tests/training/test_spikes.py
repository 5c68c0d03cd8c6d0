"""What counts as a spike, and that the record survives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

import pytest

from k2core.training.spikes import SpikeConfig, Spikes

SETTINGS = SpikeConfig(window=20, min_history=10, deviations=6.0, max_in_a_row=3)


def noisy(folder: Path, count: int) -> Spikes:
    """Spikes after `count` steps with losses around 3 ± 0.1 and norms around 1 ± 0.2."""
    spikes, random = Spikes(SETTINGS, folder), Random(0)
    for _ in range(count):
        loss, norm = random.gauss(3, 0.1), random.gauss(1, 0.2)
        assert spikes.verdict(loss, norm) is None
        spikes.accept(loss, norm)
    return spikes


def test_far_above_the_recent_past_is_a_spike(tmp_path: Path) -> None:
    spikes = noisy(tmp_path, 50)
    assert "its loss 4.5 is" in spikes.verdict(4.5, 1.0)
    assert "its gradient norm 5 is" in spikes.verdict(3.0, 5.0)
    assert spikes.verdict(3.4, 1.5) is None
    assert spikes.verdict(0.5, 0.0) is None, "far below is no spike"
    assert spikes.score(4.5, 1.0) > 6 > spikes.score(3.2, 1.2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_a_spike_at_any_time(tmp_path: Path, value: float) -> None:
    spikes = Spikes(SETTINGS, tmp_path)
    assert spikes.verdict(value, 1.0) == f"its loss is {value}"
    assert spikes.verdict(1.0, value) == f"its gradient norm is {value}"
    assert spikes.score(value, 1.0) == math.inf


def test_nothing_finite_is_a_spike_before_there_is_a_past(tmp_path: Path) -> None:
    spikes = noisy(tmp_path, 9)
    assert spikes.verdict(1e9, 1e9) is None
    spikes.accept(3.0, 1.0)
    assert spikes.verdict(1e9, 1.0)


def test_a_flat_past_does_not_make_noise_a_spike(tmp_path: Path) -> None:
    spikes = Spikes(SETTINGS, tmp_path)
    for _ in range(20):
        spikes.accept(2.0, 1.0)
    assert spikes.verdict(2.1, 1.05) is None
    assert spikes.verdict(2.2, 1.0)


def test_only_accepted_steps_make_the_past_and_only_the_window(tmp_path: Path) -> None:
    spikes = noisy(tmp_path, 50)
    before = {name: list(values) for name, values in spikes.values.items()}
    spikes.skip(50, "a reason", ["web/1"], write=True)
    assert spikes.values == before and all(len(values) == 20 for values in before.values())


def test_the_record_is_on_disk_at_once_and_a_torn_line_is_ignored(tmp_path: Path) -> None:
    spikes = Spikes(SETTINGS, tmp_path)
    spikes.skip(7, "its loss is nan", ["web/3", "web/4"], write=True)
    spikes.skip(7, "its loss is nan", ["web/3", "web/4"], write=True)
    spikes.skip(8, "not this process's to write", [], write=False)
    [line] = spikes.path.read_text().splitlines()
    assert json.loads(line) == {"step": 7, "reason": "its loss is nan", "samples": ["web/3", "web/4"]}
    with spikes.path.open("a") as file:
        file.write('{"step": 9, "rea')
    again = Spikes(SETTINGS, tmp_path)
    assert list(again.records) == [7] and again.before(7) == 0 and again.before(8) == 1


def test_state_goes_through_json(tmp_path: Path) -> None:
    spikes = noisy(tmp_path, 15)
    spikes.skip(3, "r", ["a"], write=True)
    (tmp_path / "other").mkdir()
    again = Spikes(SETTINGS, tmp_path / "other")
    again.restore(json.loads(json.dumps(spikes.state())))
    assert again.values == spikes.values and again.records == spikes.records and again.in_a_row == 1
    assert again.score(4.0, 1.0) == spikes.score(4.0, 1.0)
