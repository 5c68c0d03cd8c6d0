"""What the page says of coding problems and repository tasks: the stage's figures and one task, or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corpus_fixture import corpus
from test_page import GRAPH, gains, results

from k2core.report.page import headline, render
from k2core.report.programs import programs
from k2core.report.results import Results

FIGURES = {
    "problems": 160.0, "repairs": 3.0, "packages": 2.0, "problems/humaneval": 160.0, "problems_refused/humaneval": 4.0,
    "repairs/wasabi": 3.0, "tried/wasabi": 9.0, "repairs/colorama": 0.0, "tried/colorama": 1.0,
    "why/proved": 3.0, "why/no_test_notices": 6.0, "why/a_wrong_mend_passes": 1.0,
}  # fmt: skip
TASK = {
    "id": "swe/wasabi/util.py:12", "issue": "test_a fails.\nE   assert <1> == 2", "function": "wrap", "line": 12,
    "reason": "off by one at a boundary", "before": "    if a < b:", "after": "    if a <= b:", "failing": ["t::a"],
    "passing": ["t::a", "t::b"], "tests": ["wasabi/tests/test_util.py"],
}  # fmt: skip


def made(figures: dict[str, float], repairs: list[dict]) -> Results:
    base = results()
    return replace(base, figures=base.figures | {"programs": figures}, repairs=repairs)


def test_the_funnel_is_the_stages_figures() -> None:
    found = programs(made(FIGURES, [TASK, {}]))
    assert found is not None and found["task"] is TASK
    assert found["problems"] == [{"name": "humaneval", "tried": 164, "kept": 160}]
    assert found["packages"] == [
        {"name": "wasabi", "tried": 9, "kept": 3}, {"name": "colorama", "tried": 1, "kept": 0}
    ]  # fmt: skip
    assert found["reasons"][0] == {"name": "no test notices", "count": 6}
    assert sum(row["count"] for row in found["reasons"]) == sum(row["tried"] for row in found["packages"])


def test_the_page_shows_a_task_escaped_and_nothing_where_there_is_none(tmp_path: Path) -> None:
    def body(shown: Results) -> str:
        page = render(shown, corpus(tmp_path), headline(shown, gains()), 3, GRAPH)
        return page[page.index("<body>") :]

    page = body(made(FIGURES, [TASK]))
    for part in (
        "mistakes in wasabi", "assert &lt;1&gt; == 2", "if a &lt;= b:", "1 of 2 tests fail",
        "no test notices 6", "swe/wasabi/util.py:12",
    ):  # fmt: skip
        assert part in page, part
    assert "<1>" not in page
    none = {"problems": 0.0, "repairs": 0.0, "packages": 0.0}
    assert programs(made(none, [])) is None and 'id="programs"' not in body(made(none, []))
    assert programs(results()) is None
    assert "A task to read" not in body(made(FIGURES, []))
