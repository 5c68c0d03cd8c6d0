"""Several servers of one model: all of them work, and one that is dead or full costs its share and no answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Server, config

from k2core.llm.client import LLM, LLMUnavailable, Request
from k2core.llm.config import LLMConfig
from k2core.llm.servers import AWAY, Servers
from k2core.machine import Compute
from k2core.recipe import RecipeError, validate

COMPUTE = Compute(threads=1, seed=0, device="cpu", backend="auto", precision="fp32")
COUNT = 40


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    found = [Server() for _ in range(3)]
    yield found
    for server in found:
        server.close()


def ask(servers: list[Server], cache: Path, **changes: Any) -> list[str]:
    about = config(servers[0].url, more_base_urls=[server.url for server in servers[1:]], **changes)
    requests = [Request([{"role": "user", "content": str(n)}], 5, 0.3, 1) for n in range(COUNT)]
    with LLM.open(about, COMPUTE, cache) as llm:
        return [answer.text for answer in llm.complete_many(requests)]


EXPECTED = [f"answer to {n}" for n in range(COUNT)]


def test_all_servers_work_and_none_beyond_its_places(servers: list[Server], tmp_path: Path) -> None:
    for server in servers:
        server.delay = 0.02
    assert ask(servers, tmp_path / "cache", concurrency=3) == EXPECTED
    counts = [len(server.bodies) for server in servers]
    assert sum(counts) == COUNT and min(counts) >= COUNT // 6
    assert all(1 <= server.most_in_flight <= 3 for server in servers)


def test_a_dead_server_costs_tries_and_no_answer(servers: list[Server], tmp_path: Path) -> None:
    servers[1].close()
    assert ask(servers, tmp_path / "cache", concurrency=3, max_attempts=3) == EXPECTED
    servers[0].close()
    servers[2].close()
    with pytest.raises(LLMUnavailable, match=rf"{servers[0].url}, {servers[1].url}, .*does not answer after 2 tries"):
        ask(servers, tmp_path / "other", max_attempts=2)


def test_a_full_server_is_left_alone_while_others_have_room(servers: list[Server], tmp_path: Path) -> None:
    servers[0].script, servers[0].headers = [503], {"retry-after": "3"}
    started = time.monotonic()
    assert ask(servers, tmp_path / "cache", concurrency=1, max_wait_s=5) == EXPECTED
    assert len(servers[0].bodies) <= 2 < len(servers[1].bodies)
    assert time.monotonic() - started < 60


def test_another_server_asks_nothing_again(servers: list[Server], tmp_path: Path) -> None:
    assert ask(servers[:1], tmp_path / "cache") == EXPECTED
    assert ask(servers, tmp_path / "cache") == EXPECTED
    assert len(servers[0].bodies) == COUNT and not servers[1].bodies and not servers[2].bodies


def test_the_emptiest_of_those_that_were_reached_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    both = Servers(["a", "b"], most=4)
    with both.chosen() as first, both.chosen() as second, both.chosen() as third:
        assert [first, second, third] == [0, 1, 0]
    both.missed(0)
    with both.chosen() as first, both.chosen() as second:
        assert [first, second] == [1, 1]
        both.missed(1)
        with both.chosen() as third:
            assert third == 0, "none was reached: the emptier one"
    now[0] += AWAY
    with both.chosen() as first:
        assert first == 0


def test_what_does_not_fit_is_said_and_a_server_of_a_stage_stands_alone() -> None:
    about = config("http://a/v1", more_base_urls=["http://b/v1"])
    assert about.addresses == ["http://a/v1", "http://b/v1"] and about.in_flight == 2 * about.concurrency
    assert about.with_own({"base_url": "http://c/v1"}, "grade.llm").addresses == ["http://c/v1"]
    for urls, message in (["http://a/v1"], "named twice"), (["b:8000"], r"more_base_urls"):
        with pytest.raises(RecipeError, match=message):
            validate(LLMConfig, {**about.model_dump(), "more_base_urls": urls}, "llm")
    with pytest.raises(RecipeError, match="embedded engine has no servers beside it"):
        validate(LLMConfig, {**about.model_dump(), "base_url": "embedded"}, "llm")
