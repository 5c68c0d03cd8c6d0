"""A server that wants to hold, fill or rob us: every request ends in time, with little read and our key nowhere."""

from __future__ import annotations

import sqlite3
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from scripted_server import Server, config

from k2core.llm.client import LLM, Answer, LLMUnavailable, Refused, Request
from k2core.machine import Compute
from k2core.recipe import RecipeError

COMPUTE = Compute(threads=1, seed=0, device="cpu", backend="auto", precision="fp32")
KEY = "sk-planted/0123456789"


def ask(server: Server, path: Path, count: int = 1, **changes: object) -> list[Answer | Refused]:
    requests = [Request([{"role": "user", "content": str(i)}], 20, 0.3, seed=0) for i in range(count)]
    with LLM.open(config(server.url, **changes), COMPUTE, path / "cache") as llm:
        return llm.complete_many(requests, set_aside=True)


@pytest.mark.parametrize("trickle", ["blanks", "headers"])
def test_a_trickle_does_not_stop_the_clock(server: Server, tmp_path: Path, trickle: str) -> None:
    server.script = [trickle] * 9
    started = time.monotonic()
    with pytest.raises(LLMUnavailable, match=r"does not answer after 2 tries \(no answer within 0.5 s\)"):
        ask(server, tmp_path, max_attempts=2)
    assert 1 <= time.monotonic() - started < 5


@pytest.mark.parametrize("flood", ["flood", "flood 500"])
def test_a_flood_is_cut_while_it_arrives(server: Server, tmp_path: Path, flood: str) -> None:
    server.script = [flood] * 2
    (answer,) = ask(server, tmp_path, timeout_s=30)
    assert isinstance(answer, Answer) and answer.text == "answer to 0"
    assert 0 < server.sent < 4 * 10**7, "what the sockets hold, and no more"


def test_a_flood_that_stays_is_set_aside(server: Server, tmp_path: Path) -> None:
    server.always = {"0": "flood"}
    (refused,) = ask(server, tmp_path, timeout_s=30, max_attempts=2)
    assert isinstance(refused, Refused) and "more than 1,069,056 bytes for 20 tokens" in refused.reason


def test_a_compressed_answer_is_not_unpacked(server: Server, tmp_path: Path) -> None:
    server.always = {"0": "bomb"}
    (refused,) = ask(server, tmp_path, max_attempts=1, timeout_s=10)
    assert isinstance(refused, Refused) and "compressed" in refused.reason


def test_an_overloaded_server_is_waited_for_and_left_alone_meanwhile(server: Server, tmp_path: Path) -> None:
    """More refusals than there are tries: they do not count, as long as the wait is allowed."""
    server.script, server.headers = [429] * 6, {"retry-after": "1"}
    started = time.monotonic()
    answers = ask(server, tmp_path, 4, max_attempts=3, max_wait_s=2, timeout_s=20)
    assert [answer.text for answer in answers if isinstance(answer, Answer)] == [f"answer to {i}" for i in range(4)]
    assert len(server.bodies) == 10
    assert 2 <= time.monotonic() - started < 15


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_wait_that_is_not_allowed_is_told(server: Server, tmp_path: Path, form: str) -> None:
    server.script = [503] * 9
    server.headers = {"retry-after": "300" if form == "seconds" else formatdate(time.time() + 300, usegmt=True)}
    told = r"overloaded \(HTTP status 503\) and asks to wait (300|299|298) s.*llm.max_wait_s = 2"
    with pytest.raises(LLMUnavailable, match=told):
        ask(server, tmp_path, max_wait_s=2)
    assert len(server.bodies) == 1


def test_a_server_that_never_has_room_is_not_waited_for_for_ever(server: Server, tmp_path: Path) -> None:
    server.script, server.headers = [429] * 999, {"retry-after": "0"}
    with pytest.raises(LLMUnavailable, match="overloaded"):
        ask(server, tmp_path, max_wait_s=0.05, max_attempts=1)
    assert len(server.bodies) < 200


def test_our_key_is_masked_wherever_the_server_repeats_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.script = ["echo"]
    (answer,) = ask(server, tmp_path, api_key_variable="SOME_KEY")
    assert isinstance(answer, Answer) and answer.text == "your key is Bearer ***"
    server.script = ["echo 401"]
    with pytest.raises(RecipeError) as caught:
        ask(server, tmp_path / "other", api_key_variable="SOME_KEY")
    assert "wrong key Bearer ***" in str(caught.value) and KEY not in str(caught.value)
    with sqlite3.connect(tmp_path / "cache") as cache:
        assert "***" in cache.execute("SELECT answer FROM answers").fetchone()[0]


def test_our_key_is_masked_however_json_writes_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.script = ["echo escaped"]
    (answer,) = ask(server, tmp_path, api_key_variable="SOME_KEY")
    assert isinstance(answer, Answer) and answer.text == "your key is Bearer ***"


def test_a_broken_header_that_quotes_our_key_is_masked(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    server.always, server.headers = {"0": 200}, {"x\r\nbad header " + KEY: "y"}
    with pytest.raises(LLMUnavailable) as caught:
        ask(server, tmp_path, api_key_variable="SOME_KEY", max_attempts=1)
    assert KEY not in str(caught.value)


def test_a_redirect_is_not_followed_and_its_body_not_read(server: Server, tmp_path: Path) -> None:
    server.script = ["flood 307"]
    with pytest.raises(RecipeError, match=r"it redirects to http.*/elsewhere.*set llm.base_url to the address"):
        ask(server, tmp_path, timeout_s=30)
    assert len(server.bodies) == 1 and server.sent < 4 * 10**7


def test_a_redirect_to_nowhere_is_a_sentence(server: Server, tmp_path: Path) -> None:
    server.script = [300]
    with pytest.raises(RecipeError, match=r"does not answer itself \(status 300"):
        ask(server, tmp_path)


@pytest.mark.parametrize("wish", ["Mon, 01 Jan 2024 00:00:00 +99999999999999", "Mon, 01 Jan " + "9" * 20 + " 00:00:00"])
def test_a_wait_out_of_all_bounds_is_none(server: Server, tmp_path: Path, wish: str) -> None:
    server.script, server.headers = [503], {"retry-after": wish}
    (answer,) = ask(server, tmp_path, max_attempts=2)
    assert isinstance(answer, Answer)


def test_a_count_of_tokens_that_no_answer_has_is_set_aside(server: Server, tmp_path: Path) -> None:
    server.always = {"0": "many tokens"}
    (refused,) = ask(server, tmp_path, max_attempts=1)
    assert isinstance(refused, Refused) and "completion_tokens" in refused.reason


def test_a_stage_has_a_server_of_its_own() -> None:
    shared = config("http://127.0.0.1:1/v1")
    own = shared.with_own({"base_url": "http://127.0.0.1:2/v1", "api_key_variable": "JUDGE_KEY"}, "grade.llm")
    assert (own.base_url, own.api_key_variable, own.model) == ("http://127.0.0.1:2/v1", "JUDGE_KEY", shared.model)
    assert shared.with_own({}, "grade.llm") is shared
    with pytest.raises(RecipeError, match=r"grade.llm.modle: unknown key \(did you mean model\?\)"):
        shared.with_own({"modle": "m"}, "grade.llm")
    with pytest.raises(RecipeError, match=r"grade.llm.base_url: the address holds a password.*llm.api_key_variable"):
        shared.with_own({"base_url": "http://me:planted@host/v1"}, "grade.llm")
