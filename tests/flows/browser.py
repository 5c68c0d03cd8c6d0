"""What a person does on the Prefect page, done by headless Chromium."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from serving import CHROMIUM


@contextmanager
def browser_page() -> Iterator[Page]:
    """A new page; what it logs as an error goes to its attribute `faults`."""
    with sync_playwright() as playwright:
        # As root Chromium has no sandbox of its own; the pages are this project's, on this machine.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        page.set_default_timeout(20_000)
        yield page
        browser.close()


@contextmanager
def somebody_elses_page() -> Iterator[str]:
    """The address of a page that another user of this machine shows."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>Somebody else's</title>")

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class PrefectPage:
    """The pages of one server."""

    def __init__(self, page: Page, link: str, shots: Path) -> None:
        """Open the link that `make ui` prints."""
        self.page, self.address, self.shots = page, link.partition("/open#")[0], shots
        page.goto(link)
        page.wait_for_url("**/deployments")
        shots.mkdir(parents=True, exist_ok=True)

    def shot(self, name: str) -> None:
        """Keep a picture of what is seen."""
        self.page.screenshot(path=self.shots / f"{name}.png")

    def open_deployment(self, name: str) -> None:
        """Deployments, then the one of this name."""
        self.page.goto(f"{self.address}/deployments")
        self.page.get_by_role("link", name=name, exact=True).click()

    def start(self, deployment: str, *overrides: str) -> str:
        """Fill in the form of "Custom run" and submit it; the address of the run's page."""
        self.open_deployment(deployment)
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_text("Custom run").click()
        for number, override in enumerate(overrides):
            self.page.get_by_role("button", name="Add item").click()
            self.page.locator("textarea:visible").nth(number).fill(override)
        self.shot("form")
        with self.page.expect_response("**/create_flow_run") as answer:
            self.page.get_by_role("button", name="Submit").click()
        assert answer.value.status == 201, answer.value.text()
        self.page.goto(f"{self.address}/runs/flow-run/{answer.value.json()['id']}")
        return self.page.url

    def await_state(self, state: str, seconds: float) -> None:
        """Wait until the run whose page is open is in `state`."""
        expect(self.page.locator(".state-badge").first).to_have_text(state, timeout=seconds * 1000)

    def cancel(self) -> None:
        """Cancel the run whose page is open."""
        self.page.get_by_role("button", name="Cancel", exact=True).click()
        self.page.get_by_role("dialog").get_by_role("button", name="Confirm").click()

    def open_tab(self, name: str) -> None:
        """A tab of the page that is open."""
        self.page.get_by_text(name, exact=True).first.click()

    def schedule_every_minute(self, deployment: str) -> None:
        """Add a cron schedule in the dialog of the deployment's page."""
        self.open_deployment(deployment)
        self.page.get_by_role("button", name="Schedule", exact=True).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_text("Cron", exact=True).click()
        expect(dialog.get_by_text("Every minute")).to_be_visible()
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_be_hidden()
