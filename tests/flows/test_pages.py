"""`make ui` as a person uses it: a real server, a real worker and a real browser, on the toy chain."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import PrefectPage, browser_page, somebody_elses_page
from pages import Pages, wait_until
from serving import CHROMIUM, FRAME
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("CI"), reason="no Chromium here; `apt-get install chromium` brings it"
)


@pytest.fixture
def page(pages: Pages, tmp_path: Path) -> Iterator[PrefectPage]:
    with browser_page() as page:
        prefect = PrefectPage(page, pages.links[0], Path(os.environ.get("K2_SHOTS", tmp_path)))
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


ATTACK = """async ([method, address, body]) => {
    const options = {method, body, headers: body ? {"content-type": "application/json"} : {}, credentials: "include"}
    try { return (await fetch(address, options)).status } catch (error) { return String(error) }
}"""


def test_a_page_of_another_origin_gets_nothing(pages: Pages, page: PrefectPage) -> None:
    """The owner has opened both pages in this browser, then a page of somebody else's."""
    page.page.goto(pages.links[1])
    page.page.get_by_text("Run Name").first.wait_for()
    page.shot("mlflow")
    (chain,) = pages.api("deployments", deployments={"name": {"any_": ["chain"]}})
    with somebody_elses_page() as address:
        page.page.goto(address)
        steps = {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": "touch /tmp/stolen"}}]}
        for method, path, body in (
            ("POST", "/api/logs/filter", {}), ("GET", "/api/admin/settings", None), ("GET", "/ui-settings", None),
            ("PATCH", f"/api/deployments/{chain['id']}", steps),
            ("POST", f"/api/deployments/{chain['id']}/create_flow_run", {}),
        ):  # fmt: skip
            answer = page.page.evaluate(ATTACK, [method, pages.prefect + path, body and json.dumps(body)])
            assert answer == "TypeError: Failed to fetch", (path, answer)
        search = json.dumps({"experiment_ids": ["1"]})
        for path in ("/ajax-api/2.0/mlflow/runs/search", "/api/2.0/mlflow/runs/search"):
            answer = page.page.evaluate(ATTACK, ["POST", pages.mlflow + path, search])
            assert answer == "TypeError: Failed to fetch", (path, answer)
    (after,) = pages.api("deployments", deployments={"name": {"any_": ["chain"]}})
    steps = ("pull_steps", "entrypoint", "path")
    assert [after[key] for key in steps] == [chain[key] for key in steps]


def test_a_link_of_a_stranger_leaves_the_owner_in(pages: Pages, page: PrefectPage) -> None:
    """A page of somebody else's makes this browser open links with wrong secrets, and our pages in a frame."""
    page.page.goto(pages.links[1])
    page.page.get_by_text("Run Name").first.wait_for()
    (cookie,) = page.page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and page.page.evaluate("document.cookie") == ""
    with somebody_elses_page() as address:
        for server, wrong in ((pages.mlflow, "wrong"), (pages.prefect, "k2:wrong")):
            page.page.goto(address)
            page.page.evaluate("place => { location = place }", f"{server}/open#{wrong},")
            page.page.get_by_text("This link is not").wait_for()
        page.page.goto(address)
        page.page.evaluate(FRAME, f"{pages.mlflow}/")
        (frame,) = page.page.frames[1:]
        assert frame.get_by_text("Run Name").count() == 0
    assert page.page.context.cookies() == [cookie]
    page.page.goto(f"{pages.prefect}/deployments")
    login = pages.links[0].partition("#")[2].partition(",")[0]
    assert page.page.evaluate("atob(localStorage.getItem('prefect-password'))") == login


def test_a_password_among_the_overrides_is_refused_before_it_is_stored(pages: Pages) -> None:
    runs = len(pages.api("flow_runs"))
    for override in ("llm.base_url=http://me:planted@127.0.0.1:9/v1", "count.x=s3://AKIA:planted@bucket/texts"):
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            pages.start("chain", override)
    assert len(pages.api("flow_runs")) == runs


def test_other_users_names_and_origins_are_refused(pages: Pages) -> None:
    """No browser is needed to send any header at all."""
    login, run_search = pages.client.auth, "/api/2.0/mlflow/experiments/search?max_results=1"
    cookie = f"k2-{pages.mlflow.rpartition(':')[2]}=" + pages.links[1].partition("#")[2].partition(",")[0]
    for server, path, mine in (
        (pages.prefect, "/api/admin/version", {"auth": login}),
        (pages.mlflow, run_search, {"headers": {"cookie": cookie}}),
    ):  # fmt: skip
        headers = mine.pop("headers", {})
        assert httpx.get(server + path, headers=headers, **mine).status_code == 200
        assert httpx.get(server + path).status_code == 401
        assert httpx.get(server + path, auth=("k2", "guess"), headers={"cookie": "k2-5000=guess"}).status_code == 401
        for name, value, status in (
            ("host", "evil.example:4200", 421), ("host", "evil.example", 421),
            ("origin", "http://evil.example", 403), ("origin", "null", 403), ("origin", "http://127.0.0.1:1", 403),
        ):  # fmt: skip
            assert httpx.get(server + path, headers={**headers, name: value}, **mine).status_code == status, value
    for path in ("events/out", "logs/out", "events/in"):
        address = f"ws{pages.prefect[4:]}/api/{path}"
        with pytest.raises(InvalidStatus, match="403"), connect(address, origin="http://evil.example"):
            pass
        with connect(address, subprotocols=["prefect"]) as stranger:
            stranger.send(json.dumps({"type": "auth", "token": "guess"}))
            with pytest.raises(ConnectionClosed):
                for _ in range(3):
                    stranger.recv(timeout=10)


def test_secrets_are_the_owners_alone_and_written_nowhere_else(pages: Pages) -> None:
    folder = pages.toy.root / "work" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((pages.toy.root / ".prefect").stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["mlflow", "prefect"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    words = [file.read_bytes() for file in files]
    words += [base64.b64encode(b"k2:" + word) for word in words]
    for path in pages.toy.root.rglob("*"):
        if path.is_file() and not path.is_symlink() and folder not in path.parents and path != pages.log:
            content = path.read_bytes()
            assert not any(word in content for word in words), path


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
