"""The page of verdicts: every one of them, every score against its limit, filters that match what is there."""

from __future__ import annotations

import re

import pytest

from k2core.report.rewrites import MOST, choose, render, scores_of
from k2core.synthesis.fidelity.gate import AT_MOST, GateLimits

LIMITS = GateLimits(
    language_score=0.5, length_ratio=(0.6, 1.6), finished=1.0, repeated=0.1, copied=0.8, numbers_kept=1.0,
    numbers_invented=0, names_kept=0.8, names_invented=0, words_invented=9, equations_kept=1.0, equations_invented=0,
    negations_changed=0, opposites=0, roles=-0.2, similarity=0.8, coverage=0.5, support=0.5,
)  # fmt: skip
SCORES = {
    "language_score": 0.9, "length_ratio": 1.0, "finished": 1.0, "repeated": 0.0, "copied": 0.2, "numbers_kept": 1.0,
    "numbers_invented": 0.0, "names_kept": 0.9, "names_invented": 0.0, "words_invented": 0.0,
    "equations_kept": 1.0, "equations_invented": 0.0,
    "negations_changed": 0.0, "opposites": 0.0, "roles": 0.0, "similarity": 0.9, "coverage": 0.7, "support": 0.7,
}  # fmt: skip


def verdict(style: str = "plain", reason: str = "accepted", **changes: object) -> dict:
    return {
        "source_id": "wikipedia/X", "style": style, "gate": "math" if style == "note" else "knowledge",
        "source_text": "Born in 1900 <b>", "rewrite": "Born in 1901 <b>",
        "reason": reason, "accepted": reason == "accepted", **SCORES, **changes,
    }  # fmt: skip


def test_limits_bind_in_the_direction_that_their_descriptions_say() -> None:
    for name, field in GateLimits.model_fields.items():
        says = re.search(r"\b(least|most|greatest)\b", str(field.description))
        if not isinstance(getattr(LIMITS, name), tuple):
            assert says and (says[1] != "least") == (name in AT_MOST), name


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [("names_kept", 0.79, "≥ 0.8"), ("copied", 0.81, "≤ 0.8"), ("length_ratio", 1.61, "0.6 to 1.6"),
     ("numbers_invented", 1.0, "≤ 0")],
)  # fmt: skip
def test_a_score_past_its_limit_is_missed(name: str, value: float, limit: str) -> None:
    assert all(score["passed"] for score in scores_of(verdict(), LIMITS))
    missed = [score for score in scores_of(verdict(**{name: value}), LIMITS) if not score["passed"]]
    assert missed == [{"name": name, "value": value, "limit": limit, "passed": False}]


def test_a_score_without_a_limit_is_shown_and_none_is_missed() -> None:
    scores = scores_of(verdict(entailment=0.3), LIMITS)
    assert scores[-1] == {"name": "entailment", "value": 0.3, "limit": "", "passed": None}
    assert len(scores) == len(SCORES) + 1


def test_the_page_is_complete_escaped_and_reproducible() -> None:
    rows = [verdict(), verdict("note", "copied", copied=0.9), verdict(reason="numbers_kept", numbers_kept=0.0)]
    gate = {"knowledge": LIMITS, "math": LIMITS.model_copy(update={"copied": 0.95})}
    page = render(rows, gate, frozenset())
    assert page == render(rows, gate, frozenset())
    assert page.startswith("<!doctype html>")
    assert page.count("<article") == 3 and page.count("<b>") == 0
    assert page.count('<span class="gone fact">1900</span>') == page.count('<span class="new fact">1901</span>') == 3
    assert page.count('<tr class="missed">') == 1, "copied 0.9 passes in mathematics"
    for option in ("note (1)", "plain (2)", "accepted (1)", "rejected (2)", "copied (1)", "All 3 verdicts"):
        assert option in page
    assert re.findall(r'data-verdict="(\w+)" data-reason="(\w+)"', page) == [
        ("accepted", "accepted"), ("rejected", "copied"), ("rejected", "numbers_kept"),
    ]  # fmt: skip


def test_of_many_verdicts_rare_reasons_stay_and_long_texts_are_cut() -> None:
    rows = [verdict(source_id=str(i)) for i in range(400)] + [verdict(reason="empty", source_id="rare")]
    chosen = choose(rows, MOST)
    assert len(chosen) == MOST and chosen[-1]["source_id"] == "rare" and chosen[0]["source_id"] == "0"
    page = render([*rows, verdict(rewrite="word " * 3000)], {"knowledge": LIMITS}, frozenset())
    assert f"{MOST} of the 402 verdicts" in page
    assert render([verdict(rewrite="word " * 3000)], {"knowledge": LIMITS}, frozenset()).count("are cut")
