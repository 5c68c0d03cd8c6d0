"""The page in headless Chromium: no errors, every picture has data, on a desk and on a phone, in light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpus_fixture import corpus
from playwright.sync_api import Browser, sync_playwright
from serving import CHROMIUM
from test_page import COST, GRAPH, gains, headline, with_long_context
from test_tool_map import tools

from k2core.report.page import render
from k2core.stage.times import note

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (make browser)")
COLOURS = {
    "light": ["rgb(31, 35, 40)", "rgb(255, 255, 255)"],
    "dark": ["rgb(230, 232, 235)", "rgb(20, 23, 27)"],
}
"""Of the page's text and ground."""
MOST_BYTES, PATIENCE = 6_000_000, 60_000
"""Bytes of the page, and milliseconds: it renders in 2 s on an idle machine, but tests share theirs."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    (root / "report").mkdir()
    (root / "work").mkdir()
    results = with_long_context("before", "yarn", "after")
    results.figures["critic"] = {"accuracy/all_before": 0.5, "accuracy/all_after": 0.9}
    results.curves["rl"] = {"step": [1.0, 2.0], "critique/spread": [0.1, None], "passed": [0.5, 0.6]}
    results.tools.extend(tools())
    page = root / "report" / "index.html"
    page.write_text(render(results, corpus(root), headline(results, gains()), 3, GRAPH, COST))
    for stage, run in (("sft", "1"), ("rl", "2"), ("report", "2")):
        note(root / "work", stage, 12.34, run)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_every_picture_has_data_and_nothing_is_wrong(browser: Browser, report: Path, scheme: str, width: int) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(report.as_uri(), timeout=PATIENCE)
    assert faults == []
    pictures = page.eval_on_selector_all(
        ".plotly-graph-div",
        "all => all.map(one => [one.id, one.data.some(trace => (trace.y || trace.z || trace.x || []).length > 0),"
        " one.querySelectorAll('svg.main-svg').length])",
    )
    assert len(pictures) >= 8 and all(data and drawn for _, data, drawn in pictures), pictures
    style = page.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    assert style == COLOURS[scheme]
    text = page.evaluate("getComputedStyle(document.querySelector('.plotly-graph-div .xtick text')).fill")
    assert (text == COLOURS["dark"][0]) == (scheme == "dark"), "pictures follow"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out sideways"
    page.close()


def test_times_and_states_stand_in_the_graph(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri(), timeout=PATIENCE)
    shown = page.eval_on_selector_all("g[data-stage]", "all => all.map(box => [box.dataset.stage, box.textContent])")
    assert dict(shown) == {
        "sft": "sft12.3 s, kept",
        "rl": "rl12.3 s, ran",
        "report": "report12.3 s, ran",
        "export": "export",
    }
    assert page.locator('[data-seconds="sft"]').inner_text() == "12.3"
    assert "All stages together took 37 s" in page.locator("#seconds").inner_text()
    assert page.locator("h2").first.inner_text() == "At a glance"
    page.close()


def test_tools_rollouts_verdicts_benchmarks_and_k2s_cost_can_be_read(browser: Browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri(), timeout=PATIENCE)
    drawn = page.eval_on_selector_all(
        ".plotly-graph-div", "all => all.map(one => one.data.flatMap(trace => trace.text || []).length)"
    )
    assert len(tools()) in drawn, "each tool is on the map once"
    labels = page.eval_on_selector_all(".annotation-text", "all => all.map(one => one.textContent)")
    assert {"weather", "banking"} <= set(labels)
    assert page.locator("#benchmarks b").all_inner_texts() == ["0.600", "0.900", "0.900", "0.900", "0.900"]
    assert "before 0 of 2" in page.locator("#rollouts ~ details summary").first.inner_text()
    assert page.get_by_text("Verdicts to read: 2").is_visible() and not page.get_by_text("2 <1>").first.is_visible()
    page.get_by_text("Verdicts to read: 2").click()
    assert page.get_by_text("2 <1>").first.is_visible(), "folded until then"
    page.get_by_text("The same at K2's scale").click()
    assert "years" in page.locator("#at-this-rate").inner_text()
    page.close()


def test_the_page_is_small_and_its_times_are_beside_it(report: Path) -> None:
    assert report.stat().st_size <= MOST_BYTES
    assert "12.3 s" not in report.read_text()
    assert json.loads((report.parents[1] / "work" / "times.js").read_text().partition(" = ")[2])["rl"]["run"] == "2"
