"""`make ui` as a person uses it: a real server, a real worker and a real browser, on the toy chain."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, PrefectPage, browser_page
from pages import Pages, wait_until

pytestmark = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("CI"), reason="no Chromium here; `apt-get install chromium` brings it"
)


@pytest.fixture
def page(pages: Pages, tmp_path: Path) -> Iterator[PrefectPage]:
    with browser_page() as page:
        prefect = PrefectPage(page, pages.prefect, Path(os.environ.get("K2_SHOTS", tmp_path)))
        yield prefect
        prefect.shot("last")


def test_a_run_from_the_form_with_an_override(pages: Pages, page: PrefectPage) -> None:
    page.start("chain", "count.steps=7")
    page.await_state("Completed", seconds=90)
    page.shot("run")
    assert (pages.toy.root / "data" / "join").read_text() == "left 7\nright 7\n"
    run = pages.api("flow_runs", sort="START_TIME_DESC", limit=1)[0]
    tasks = pages.api("task_runs", flow_runs={"id": {"any_": [run["id"]]}})
    states = {task["name"]: task["state_type"] for task in tasks}
    assert states == dict.fromkeys(["source", "branch@left", "branch@right", "join"], "COMPLETED")
    page.open_tab("Artifacts")
    page.shot("artifacts")


def test_a_failed_run_says_its_sentence_once(pages: Pages, page: PrefectPage) -> None:
    page.start("join", "join.fail=bad")
    page.await_state("Failed", seconds=90)
    page.page.get_by_text("left has no column text").first.wait_for()
    page.shot("failed")
    run = pages.api("flow_runs", sort="START_TIME_DESC", limit=1)[0]
    logs = pages.api("logs", logs={"flow_run_id": {"any_": [run["id"]]}}, limit=200, sort="TIMESTAMP_DESC")
    assert logs
    said = [log["message"] for log in logs if "no column text" in log["message"]]
    assert len([line for line in said if not line.startswith("Finished in state")]) == 1, said
    assert not [log for log in logs if "Traceback" in log["message"]]
    page.start("join", "join.fail=none")
    page.await_state("Completed", seconds=90)


def test_cancelling_leaves_the_previous_outputs_and_the_next_run_goes_on(pages: Pages, page: PrefectPage) -> None:
    before = (pages.toy.root / "data" / "source").read_text()
    page.start("chain", "count.steps=90", "count.seconds_a_step=0.2")
    page.await_state("Running", seconds=60)
    wait_until(lambda: pages.toy.processes("stages.count"), 60, "no stage was started")
    time.sleep(2)
    page.cancel()
    page.await_state("Cancelled", seconds=60)
    page.shot("cancelled")
    assert not pages.toy.processes("stages.count")
    wait_until(lambda: (pages.toy.root / "data" / "source").exists(), 30, "the previous output did not come back")
    assert (pages.toy.root / "metrics" / "source.json").exists()
    assert (pages.toy.root / "data" / "source").read_text() == before

    page.start("chain", "count.seconds_a_step=0")
    page.await_state("Completed", seconds=120)
    assert "90" in (pages.toy.root / "data" / "source").read_text()


def test_a_schedule_set_in_the_page_fires(pages: Pages, page: PrefectPage) -> None:
    page.schedule_every_minute("chain")

    def fired() -> list[dict]:
        runs = pages.api("flow_runs", sort="START_TIME_DESC")
        return [run for run in runs if "auto-scheduled" in run["tags"] and run["state_type"] == "COMPLETED"]

    wait_until(
        fired,
        150,
        f"no scheduled run; the server said {(pages.toy.root / 'logs/prefect-server.log').read_text()[-2000:]}",
    )
    page.open_deployment("chain")
    page.shot("schedule")


def test_a_second_make_ui_says_where_the_first_is(pages: Pages) -> None:
    second = pages.toy.run("python", "-m", "flows.pages", check=False)
    assert second.returncode == 1
    assert f"Prefect {pages.prefect}" in second.stderr


def test_sigterm_ends_everything_and_schedules_outlive_it(pages: Pages) -> None:
    def crons() -> list[str]:
        (found,) = pages.api("deployments", deployments={"name": {"any_": ["chain"]}})
        return sorted(schedule["schedule"]["cron"] for schedule in found["schedules"])

    before = crons()
    pages.stop()
    assert pages.children() == []
    assert not (pages.toy.root / "work" / "pages.json").exists()
    pages.begin()
    assert crons() == before == ["* * * * *", "0 3 * * *"]
    names = {automation["name"] for automation in pages.api("automations")}
    assert len([name for name in names if name.startswith("k2: ")]) == 2
