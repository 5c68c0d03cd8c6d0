"""Many requests at a server with faults: each is answered or set aside with its reason; no answer is fetched twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Server, config

from k2core.llm.client import LLM, Answer, LLMUnavailable, Refused, Request
from k2core.llm.pressure import Pressure
from k2core.machine import Compute
from k2core.recipe import RecipeError

COMPUTE = Compute(threads=1, seed=0, device="cpu", backend="auto", precision="fp32")
STATUSES = {400: "status 400", 413: "status 413", 422: "status 422"}
UNUSABLE = {
    "truncated": "unusable answer (Invalid JSON", "garbage": "unusable answer (Invalid JSON",
    "no choices": "unusable answer (choices:", "empty": "empty answer", "no text": "empty answer",
}  # fmt: skip
TRANSIENT = [429, 500, 503, "hang", "drop", "cut", *UNUSABLE]


def requests(count: int) -> list[Request]:
    return [Request([{"role": "user", "content": str(i)}], 5, 0.3, seed=0) for i in range(count)]


def ask(server: Server, path: Path, count: int, **changes: Any) -> list[Answer | Refused]:
    """As a stage does it: the cache is opened anew."""
    with LLM.open(config(server.url, **changes), COMPUTE, path / "cache") as llm:
        return llm.complete_many(requests(count), set_aside=True)


def texts(results: list[Answer | Refused]) -> list[str]:
    return [result.text if isinstance(result, Answer) else result.reason for result in results]


def expected(count: int) -> list[str]:
    return [f"answer to {i}" for i in range(count)]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_fault_that_passes_costs_tries_and_nothing_else(server: Server, tmp_path: Path, fault: Any) -> None:
    server.script = [fault] * 3
    assert texts(ask(server, tmp_path, 6)) == expected(6)
    assert len(server.bodies) == 9


def test_a_mix_of_faults_passes(server: Server, tmp_path: Path) -> None:
    server.script = TRANSIENT * 2
    assert texts(ask(server, tmp_path, 30, max_attempts=12, concurrency=8)) == expected(30)
    assert len(server.bodies) == 30 + 2 * len(TRANSIENT)


@pytest.mark.parametrize(("fault", "reason"), {**STATUSES, **UNUSABLE}.items())
def test_what_stays_is_set_aside_with_its_reason_and_asked_again_by_the_next_run(
    server: Server, tmp_path: Path, fault: Any, reason: str
) -> None:
    server.always = {"2": fault}
    results = ask(server, tmp_path, 5)
    assert isinstance(results[2], Refused) and reason in results[2].reason
    assert [i for i, result in enumerate(results) if isinstance(result, Refused)] == [2]
    assert server.asked() == {"0": 1, "1": 1, "2": 1 if fault in STATUSES else 4, "3": 1, "4": 1}
    server.bodies.clear()
    server.always = {}
    assert texts(ask(server, tmp_path, 5)) == expected(5)
    assert server.asked() == {"2": 1}


def test_one_request_that_the_server_fails_at_is_set_aside(server: Server, tmp_path: Path) -> None:
    server.always = {"2": 500}
    results = ask(server, tmp_path, 9)
    assert results[2] == Refused("fails at this request (status 500) and answers others")
    assert [i for i, result in enumerate(results) if isinstance(result, Refused)] == [2]


@pytest.mark.parametrize("fault", [400, "garbage"])
def test_without_set_aside_it_is_an_error_that_is_asked_again(server: Server, tmp_path: Path, fault: Any) -> None:
    server.always = {"0": fault}
    for round_ in (1, 2):
        with LLM.open(config(server.url, max_attempts=1), COMPUTE, tmp_path / "cache") as llm:
            with pytest.raises(RecipeError, match=server.url):
                llm.complete_many(requests(1))
        assert len(server.bodies) == round_


def test_a_refusal_that_was_set_aside_is_no_answer_elsewhere(server: Server, tmp_path: Path) -> None:
    server.always = {"0": 400}
    ask(server, tmp_path, 1)
    server.always = {}
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        assert llm.answer(requests(1)[0]).text == "answer to 0"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_everybody_is_an_error(server: Server, tmp_path: Path, status: int) -> None:
    server.script = [status] * 50
    with pytest.raises(RecipeError, match=f"status {status}.*llm.model"):
        ask(server, tmp_path, 50)
    assert len(server.bodies) <= 6


@pytest.mark.parametrize("fault", [429, 500, 503, "hang", "drop", "refused"])
def test_a_server_that_stays_down_means_try_again(server: Server, tmp_path: Path, fault: Any) -> None:
    server.script = [200, 200] + [fault] * 50
    if fault == "refused":
        server.close()
    with pytest.raises(LLMUnavailable, match="does not answer after 2 tries"):
        ask(server, tmp_path, 40, max_attempts=2)
    assert len(server.bodies) < 20
    if fault == "refused":
        server.start()


def test_a_server_that_dies_half_way_and_comes_back(server: Server, tmp_path: Path) -> None:
    server.dies_after = 11
    with pytest.raises(LLMUnavailable):
        ask(server, tmp_path, 25, max_attempts=2)
    answered = server.bodies[:11]
    server.close()
    with pytest.raises(LLMUnavailable):  # still down: its port is closed now
        ask(server, tmp_path, 25, max_attempts=2)
    server.dies_after = None
    server.bodies.clear()
    server.start()
    assert texts(ask(server, tmp_path, 25)) == expected(25)
    assert len(server.bodies) == 14
    assert not {str(body) for body in answered} & {str(body) for body in server.bodies}
    assert set(server.asked().values()) == {1}


def test_a_server_back_within_the_tries_is_not_noticed(server: Server, tmp_path: Path) -> None:
    server.close()
    threading.Timer(0.2, server.start).start()
    assert texts(ask(server, tmp_path, 5, max_attempts=60)) == expected(5)


def test_what_is_in_flight_is_finished_and_kept(server: Server, tmp_path: Path) -> None:
    server.always, server.delay = {"0": 404}, 0.1
    server.room = 3
    with pytest.raises(RecipeError):
        ask(server, tmp_path, 3)
    server.always = {}
    server.bodies.clear()
    assert texts(ask(server, tmp_path, 3)) == expected(3)
    assert server.asked() == {"0": 1}


def test_an_answer_cut_by_its_limit_is_an_answer_that_says_so(server: Server, tmp_path: Path) -> None:
    server.always = {"0": "length"}
    (result,) = ask(server, tmp_path, 1)
    assert isinstance(result, Answer) and result.finish_reason == "length"
    assert len(server.bodies) == 1


def test_fewer_are_in_flight_at_a_server_without_room(server: Server, tmp_path: Path) -> None:
    server.room, server.delay = 4, 0.02
    assert texts(ask(server, tmp_path, 120, concurrency=32, max_attempts=12)) == expected(120)
    assert server.most_in_flight <= 32
    refusals = len(server.bodies) - 120
    assert refusals < 120  # with 32 in flight for ever there would be seven refusals an answer


def test_pressure_halves_once_a_burst_and_grows_by_one_a_round() -> None:
    pressure = Pressure(16)
    with pressure.slot() as first, pressure.slot() as second:
        pressure.overloaded(first)
        pressure.overloaded(second)
    assert pressure.limit == 8
    for _ in range(9):
        pressure.answered()
    assert pressure.limit == 9
    for _ in range(1000):
        pressure.answered()
    assert pressure.limit == 16
    for _ in range(10):
        with pressure.slot() as halvings:
            pressure.overloaded(halvings)
    assert pressure.limit == 1


def test_requests_are_taken_as_there_is_room(server: Server, tmp_path: Path) -> None:
    taken = 0
    ahead = []

    def endless() -> Iterator[Request]:
        nonlocal taken
        for request in requests(60):
            taken += 1
            ahead.append(taken - len(server.bodies))
            yield request

    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        assert texts(llm.complete_many(endless())) == expected(60)
    assert max(ahead) <= 3  # llm.concurrency


def test_an_error_in_the_requests_themselves_is_raised(server: Server, tmp_path: Path) -> None:
    def broken() -> Iterator[Request]:
        yield from requests(2)
        raise KeyError("text")

    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        with pytest.raises(KeyError):
            llm.complete_many(broken())
