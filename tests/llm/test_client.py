"""The client against a small local server: structured output, retries, clear ends, the replay cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Server, config

from k2core.llm.cache import ReplayCache, request_key
from k2core.llm.client import LLM, Answer, LLMUnavailable, Refused, Request
from k2core.machine import Compute
from k2core.recipe import RecipeError
from k2core.storage import StorageError, read_lines, write_lines

MESSAGES = [{"role": "user", "content": "hello"}]
COMPUTE = Compute(threads=1, seed=0, device="cpu", backend="auto", precision="fp32")


def ask(llm: LLM, text: str = "hello", **changes: Any) -> str:
    return llm.complete(
        [{"role": "user", "content": text}], **{"max_tokens": 5, "temperature": 0.3, "seed": 1, **changes}
    )


def test_the_request_says_what_was_asked(server: Server, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        assert ask(llm, schema=schema) == "answer to hello"
    (body,) = server.bodies
    form = body.pop("response_format")
    assert body == {"model": "m", "messages": MESSAGES, "max_tokens": 5, "temperature": 0.3, "seed": 1}
    assert form["type"] == "json_schema" and form["json_schema"]["schema"] == schema


@pytest.mark.parametrize("fault", [429, 500, 503, "hang"])
def test_transient_faults_are_retried(server: Server, tmp_path: Path, fault: Any) -> None:
    server.script = [fault, fault]
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        assert ask(llm) == "answer to hello"
    assert len(server.bodies) == 3


def test_retry_after_is_honoured(server: Server, tmp_path: Path) -> None:
    server.script, server.headers = [429], {"retry-after": "1"}
    started = time.monotonic()
    with LLM.open(config(server.url, max_wait_s=5), COMPUTE, tmp_path / "cache") as llm:
        ask(llm)
    assert time.monotonic() - started >= 1


def test_a_server_that_stays_down_ends_in_one_sentence(server: Server, tmp_path: Path) -> None:
    server.script = [503] * 10
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        with pytest.raises(
            LLMUnavailable, match=r"does not answer after 4 tries \(HTTP status 503\); start the server"
        ):
            ask(llm)
    assert len(server.bodies) == 4
    assert issubclass(LLMUnavailable, ConnectionError)  # which the stage's command line turns into "try again"


def test_a_dead_address_ends_in_one_sentence(server: Server, tmp_path: Path) -> None:
    server.close()
    with LLM.open(config(server.url, max_attempts=2), COMPUTE, tmp_path / "cache") as llm:
        with pytest.raises(LLMUnavailable, match="does not answer after 2 tries") as caught:
            ask(llm)
    assert server.url in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refused_request_is_not_retried(server: Server, tmp_path: Path, status: int) -> None:
    server.script = [status] * 3
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        with pytest.raises(RecipeError, match=f"refused the request .status {status}.*llm.model"):
            ask(llm)
    assert len(server.bodies) == 1


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(RecipeError, match="SOME_KEY"):
        with LLM.open(config("http://127.0.0.1:1/v1", api_key_variable="SOME_KEY"), COMPUTE, tmp_path / "cache"):
            pass


def test_many_requests_keep_their_order_and_the_bound(server: Server, tmp_path: Path) -> None:
    server.delay = 0.05
    requests = [Request([{"role": "user", "content": str(i)}], 5, 0.3, seed=i) for i in range(9)]
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        answers = llm.complete_many(requests)
    assert [answer.text for answer in answers] == [f"answer to {i}" for i in range(9)]
    assert 1 < server.most_in_flight <= 3
    assert answers[0].completion_tokens == 7 and answers[0].finish_reason == "stop"


def test_chains_of_requests_are_in_flight_together(server: Server, tmp_path: Path) -> None:
    server.delay = 0.02

    def chain(number: int) -> list[Answer | Refused]:
        texts = (f"{number}.{place}" for place in range(3))
        return [llm.answer_or_reason(Request([{"role": "user", "content": text}], 5, 0.3, seed=1)) for text in texts]

    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        assert [len(answers) for answers in llm.each(chain, range(9))] == [3] * 9
        assert 1 < server.most_in_flight <= 3 and len(server.bodies) == 27
        llm.stop()
        assert len(llm.each(chain, range(9))) == 9, "what was answered is known"
        with pytest.raises(CancelledError):
            llm.each(chain, range(12))
    assert len(server.bodies) == 27


def test_the_first_failure_stops_the_rest(server: Server, tmp_path: Path) -> None:
    server.script = [404] * 50
    requests = [Request([{"role": "user", "content": str(i)}], 5, 0.3, seed=i) for i in range(50)]
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        with pytest.raises(RecipeError):
            llm.complete_many(requests)
    assert len(server.bodies) < 20


def test_an_answer_is_asked_for_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):  # two processes' worth: the cache is opened anew
        with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
            assert ask(llm) == "answer to hello"
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"temperature": 0.4}, {"max_tokens": 6}, {"text": "other"}, {"schema": {}}]
)
def test_another_request_is_another_answer(server: Server, tmp_path: Path, change: dict[str, Any]) -> None:
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        ask(llm)
        ask(llm, **change)
    assert len(server.bodies) == 2


def test_answers_survive_kill_9(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import os, signal; from pathlib import Path; from k2core.llm.cache import ReplayCache\n"
        f"cache = ReplayCache(Path({str(tmp_path / 'cache')!r}))\n"
        "for i in range(20): cache.put(str(i), {'text': str(i)})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -9
    cache = ReplayCache(tmp_path / "cache")
    assert [cache.get(str(i)) for i in range(20)] == [{"text": str(i)} for i in range(20)]
    assert cache.get("20") is None
    cache.close()


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(StorageError, match=r"cache: not a readable replay cache"):
        ReplayCache(tmp_path / "cache")


def test_the_key_ignores_the_order_of_fields() -> None:
    assert request_key({"a": 1, "b": 2}) == request_key({"b": 2, "a": 1}) != request_key({"a": 2, "b": 1})


def test_the_engine_is_started_for_what_is_not_known(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    @contextmanager
    def serve(config: Any, threads: int) -> Iterator[tuple[str, str]]:
        started.append(threads)
        yield server.url, "key"

    monkeypatch.setattr("k2core.llm.engine.serve", serve)
    for text, engines in (("hello", 1), ("hello", 1), ("other", 2)):
        with LLM.open(config("embedded"), COMPUTE, tmp_path / "cache") as llm:
            assert ask(llm, text=text) == f"answer to {text}"
        assert len(started) == engines


def test_half_a_character_in_an_answer_is_replaced_and_line_separators_stay(server: Server, tmp_path: Path) -> None:
    """The stage once died of it on writing its files, and again at each re-run, because the cache had it."""
    server.script = ["half"]
    answers = []
    for _ in range(2):  # the server, then the cache
        with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
            answers.append(ask(llm))
    assert answers == ["\u2028\u2029\x85\x0b\x0c \ufffd answer to hello"] * 2 and len(server.bodies) == 1
    write_lines(tmp_path / "rows.jsonl", [{"id": text, "text": text} for text in answers])
    assert [row["text"] for row in read_lines(tmp_path / "rows.jsonl")] == answers


def test_an_old_cache_may_hold_half_a_character(tmp_path: Path) -> None:
    cache = ReplayCache(tmp_path / "cache")
    cache.put("key", {"text": "a\ud83d"})
    assert cache.get("key") == {"text": "a\ufffd"}
    cache.close()


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_server_on_this_machine_is_asked_directly(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    monkeypatch.setenv("NO_PROXY", "example.org")
    with LLM.open(config(server.url), COMPUTE, tmp_path / "cache") as llm:
        assert ask(llm) == "answer to hello"


def test_a_proxy_that_cannot_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:9")
    with LLM.open(config("http://llm.example/v1"), COMPUTE, tmp_path / "cache") as llm:
        with pytest.raises(RecipeError, match=r"the proxy for http://llm\.example/v1 cannot"):
            ask(llm)
