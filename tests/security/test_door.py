"""The door of the pages of `make ui`, by itself and in a browser: whom it lets in, and what it tells a browser."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from serving import CHROMIUM, FRAME, served

from flows.access import IN_PREFECT, Guard

HERE = "http://127.0.0.1:5000"
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


async def page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"the page"})


def ask(guard: Guard, method: str, path: str, **more: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=HERE) as client:
            return await client.request(method, path, **more)

    return asyncio.run(once())


@pytest.fixture
def guard() -> Guard:
    return Guard(page, "right")


@pytest.mark.parametrize("wrong", [b"wrong", b"", b"righ", b"right ", b"x" * 10**6, b"\xff"])
def test_a_wrong_link_leaves_a_right_cookie_alone(guard: Guard, wrong: bytes) -> None:
    answer = ask(guard, "POST", "/open", content=wrong)
    assert answer.status_code == 401 and "set-cookie" not in answer.headers
    shown = ask(guard, "GET", "/open").text
    assert "document.cookie" not in shown and "right" not in shown


def test_the_right_link_sets_a_cookie_that_no_script_reads(guard: Guard) -> None:
    answer = ask(guard, "POST", "/open", content=b"right")
    assert answer.headers["set-cookie"] == "k2-5000=right; Path=/; HttpOnly; SameSite=Strict"
    assert ask(guard, "GET", "/", headers={"cookie": "k2-5000=right"}).text == "the page"
    assert ask(guard, "GET", "/", headers={"cookie": "k2-5000=wrong"}).status_code == 401
    assert ask(guard, "GET", "/").status_code == 401


def test_where_the_application_asks_by_itself_there_is_no_cookie() -> None:
    guard = Guard(page, "k2:right", IN_PREFECT)
    assert IN_PREFECT in ask(guard, "GET", "/open").text
    answer = ask(guard, "POST", "/open", content=b"k2:right")
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert ask(guard, "POST", "/open", content=b"k2:wrong").status_code == 401
    assert ask(guard, "GET", "/").text == "the page"


@pytest.mark.parametrize("path", ["/", "/open"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_or_port_gets_nothing_but_a_link(guard: Guard, path: str, site: str) -> None:
    """A script, a picture, a form and a frame send no origin, or none that is theirs; the cookie knows no ports."""
    mine = {"cookie": "k2-5000=right", "sec-fetch-site": site}
    for mode, dest in (("no-cors", "script"), ("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe")):
        headers = {**mine, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert ask(guard, "GET", path, headers=headers).status_code == 403, (mode, dest)
    assert ask(guard, "GET", path, headers={**mine, **LINK, "sec-fetch-site": site}).status_code == 200
    form = {**mine, **LINK, "sec-fetch-site": site, "origin": "http://127.0.0.1:9"}
    assert ask(guard, "POST", path, headers=form, content=b"right").status_code == 403
    assert ask(guard, "GET", path, headers={**mine, "sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/open"])
@pytest.mark.parametrize("cookie", ["right", "wrong"])
def test_no_page_frames_ours(guard: Guard, path: str, cookie: str) -> None:
    answer = ask(guard, "GET", path, headers={"cookie": f"k2-5000={cookie}"})
    assert re.search("frame-ancestors '(none|self)'", answer.headers["content-security-policy"])


INCLUDED = """place => new Promise(answered => {
    const script = document.createElement("script")
    script.onload = () => answered("loaded")
    script.onerror = () => answered("refused")
    script.src = place
    document.body.append(script)
})"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here; `apt-get install chromium` brings it")
def test_in_a_browser_the_owner_stays_in_and_a_strangers_page_out() -> None:
    from playwright.sync_api import sync_playwright

    async def script(scope: Any, receive: Any, send: Any) -> None:
        kind = b"text/javascript" if scope["path"] == "/x.js" else b"text/html"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": b"1" if kind == b"text/javascript" else b"the page"})

    with (
        served(Guard(script, "right")) as cookies, served(Guard(page, "k2:right", IN_PREFECT)) as stores,
        served(page) as strange, sync_playwright() as playwright,
    ):  # fmt: skip
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        for server, word in ((cookies, "right"), (stores, "k2:right")):
            tab.goto(f"{server}/open#{word},there")
            tab.wait_for_url(f"{server}/there")
            tab.get_by_text("the page").wait_for()
        assert tab.evaluate("atob(localStorage.getItem('prefect-password'))") == "k2:right"
        (cookie,) = tab.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["value"] == "right"
        tab.goto(cookies)
        assert tab.evaluate("document.cookie") == "" and tab.evaluate(INCLUDED, f"{cookies}/x.js") == "loaded"
        for server, wrong in ((cookies, "wrong"), (stores, "k2:wrong")):
            tab.goto(strange)
            tab.evaluate("place => { location = place }", f"{server}/open#{wrong},")
            tab.get_by_text("This link is not").wait_for()
        assert tab.context.cookies() == [cookie]
        assert tab.evaluate("atob(localStorage.getItem('prefect-password'))") == "k2:right"
        tab.goto(strange)
        assert tab.evaluate(INCLUDED, f"{cookies}/x.js") == "refused"
        tab.evaluate(FRAME, f"{cookies}/")
        assert tab.frames[1].get_by_text("the page").count() == 0
        tab.evaluate("place => { location = place }", f"{cookies}/")  # a link, which shows our page alone
        tab.wait_for_url(f"{cookies}/")
        tab.get_by_text("the page").wait_for()
        browser.close()
