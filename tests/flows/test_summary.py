"""What the end of a run says of what it changed."""

from __future__ import annotations

from flows.summary import Before


def test_what_an_earlier_run_did_not_have_is_no_change() -> None:
    """It had failed in its first stages: the keys and figures of the others are new, all of them."""
    bits, passed = "bits per byte: lower is better", "tasks passed: higher is better"
    before = Before({"ingest.limit": 4, "ingest.files": []}, {bits: 2.0})
    now = Before({"ingest.limit": 5, "ingest.files": ["x" * 99], "rl.tau": 0.2}, {bits: 1.5, passed: 0.3})
    assert before.against(now) == ["ingest.limit: 4 → 5", "ingest.files changed", "bits per byte: 2 → 1.5 (better)"]
    assert Before({}, {}).against(now) == []
