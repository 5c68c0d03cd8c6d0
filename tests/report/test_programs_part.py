"""What the page says of coding problems and repository tasks: the stage's figures and one task, or nothing."""

from __future__ import annotations

from dataclasses import replace

from test_page import PROGRAMS, TASK, results

from k2core.report import templates
from k2core.report.programs import PART, programs
from k2core.report.results import Results


def made(figures: dict[str, float], repairs: list[dict]) -> Results:
    return replace(results(), figures={"programs": figures}, repairs=repairs)


def test_the_funnel_is_the_stages_figures() -> None:
    found = programs(made(PROGRAMS, [TASK, {}]))
    assert found is not None and found["task"] is TASK
    assert found["problems"] == [{"name": "humaneval", "tried": 164, "kept": 160}]
    assert found["packages"] == [
        {"name": "wasabi", "tried": 9, "kept": 3}, {"name": "colorama", "tried": 1, "kept": 0}
    ]  # fmt: skip
    assert found["reasons"][0] == {"name": "no test notices", "count": 6}
    assert sum(row["count"] for row in found["reasons"]) == sum(row["tried"] for row in found["packages"])


def test_a_task_is_shown_escaped_with_its_mistake() -> None:
    shown = templates.render(PART, programs=programs(made(PROGRAMS, [TASK])))
    for part in (
        "mistakes in wasabi", "assert &lt;1&gt; == 2", "if a &lt;= b:", "1 of 2 tests fail", "no test notices 6",
        "swe/wasabi/util.py:12",
    ):  # fmt: skip
        assert part in shown, part
    assert "<1>" not in shown
    assert "A task to read" not in templates.render(PART, programs=programs(made(PROGRAMS, [])))


def test_a_run_without_programs_shows_none() -> None:
    assert programs(made({"problems": 0.0, "repairs": 0.0, "packages": 0.0}, [])) is None
    assert programs(replace(results(), figures={})) is None
