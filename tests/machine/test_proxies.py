"""Servers on this machine are reached directly, whatever proxies the environment names."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
import requests

from k2core.machine.proxies import is_loopback, spare_all, spare_loopback

DEAD = "127.0.0.1:9"
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
"""That this machine has none of them set is no condition of these tests."""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *map(str.upper, NAMES), "K2_NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("no_proxy", ["", "example.org", "*"])
@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_dead_proxy_is_no_obstacle(address: str, monkeypatch: pytest.MonkeyPatch, name: str, no_proxy: str) -> None:
    monkeypatch.setenv(name, f"http://{DEAD}")
    if no_proxy:
        monkeypatch.setenv("no_proxy", no_proxy)
    spare_loopback()
    for ask in (httpx.get, requests.get):
        assert ask(address, timeout=5).status_code == 204
    assert set(filter(None, [no_proxy])) <= set(os.environ["NO_PROXY"].split(","))
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]


@pytest.mark.parametrize("proxy", [f"socks5://{DEAD}", f"socks5h://{DEAD}", f"nonsense://{DEAD}"])
def test_a_proxy_that_httpx_does_not_know_is_no_obstacle(
    address: str, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "example.org")
    spare_loopback()
    spare_all()
    assert httpx.get(address, timeout=5).status_code == 204
    assert requests.get(address, timeout=5).status_code == 204
    spare_loopback()  # in a stage that the process starts
    assert os.environ["NO_PROXY"] == "example.org,localhost,127.0.0.1,::1" and "K2_NO_PROXY" not in os.environ


def test_proxies_that_can_be_used_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{DEAD}")
    spare_loopback()
    spare_all()
    assert "*" not in os.environ["NO_PROXY"]
    assert requests.utils.get_environ_proxies("https://example.org")["https"] == f"http://{DEAD}"


def test_what_is_this_machine() -> None:
    assert all(map(is_loopback, ("http://127.0.0.1:1/v1", "http://localhost/", "http://[::1]:8000")))
    assert not any(map(is_loopback, ("http://127.0.0.1.example.org", "https://example.org", "nonsense")))
