"""Tokens per second through our client against the bare engine: the same requests, engine and number in flight."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness import Entry, alternate, compare
from benchmarks.scale import Scale
from k2core.llm import engine
from k2core.llm.cache import ReplayCache
from k2core.llm.client import LLM, Answer, Request
from k2core.llm.config import EMBEDDED, LLMConfig
from k2core.llm.line import Line

TOPIC = "engine"
GOAL = 0.9
TOKENS = 16
"""Most tokens of an answer: a call takes two or three seconds."""
SUBJECTS = ("The Nile", "A volcano", "The violin", "Copper", "A glacier", "The bee", "Sanskrit", "A comet")

Work = Callable[[], int]
"""Answers all requests; returns the tokens of the answers."""


def run(scale: Scale) -> list[Entry]:
    """An entry for the engine as it is embedded, one request at a time, and one for a server with four slots."""
    return [_entry(scale, 1, "one request at a time"), _entry(scale, 4, "4 requests in flight")]


def _entry(scale: Scale, slots: int, what: str) -> Entry:
    embedded = LLMConfig(
        base_url=EMBEDDED, model="smollm2", api_key_variable="", context=512 * slots, timeout_s=120, max_attempts=1,
        max_wait_s=1, concurrency=slots, expected_tokens_per_second=60,
    )  # fmt: skip
    asked = requests(min(TOKENS, scale.new_tokens), min(4 if slots == 1 else 8, scale.sequences // 2))
    with engine.serve(embedded, scale.threads, slots) as (address, key):
        config = embedded if slots == 1 else embedded.model_copy(update={"base_url": address})
        with (
            closing(Line(address, key, 120)) as ours,
            httpx.Client(base_url=f"{address}/", headers={"authorization": f"Bearer {key}"}, timeout=120) as bare,
        ):
            works = {"ours": our_client(ours, config, asked), "peer": plain_http(bare, asked, slots)}
            tokens: dict[str, list[int]] = {name: [] for name in works}
            times = alternate(
                {name: _counted(work, tokens[name]) for name, work in works.items()},
                rounds=scale.rounds, seconds=scale.seconds,
            )  # fmt: skip
    rates = {name: [n / t for n, t in zip(tokens[name][1:], times[name], strict=True)] for name in works}
    return compare(
        f"rephrasing engine, {what}", rates["ours"], rates["peer"], unit="tokens/s", ratio_of="ours / peer",
        better="higher", goal=GOAL, topic=TOPIC,
        note=f"the same llama.cpp server asked by httpx in {slots} thread{'s' * (slots > 1)}; {len(asked)} requests",
    )  # fmt: skip


def requests(tokens: int, count: int) -> list[Request]:
    """`count` short questions (at most eight), answered with at most `tokens` tokens."""
    asked = SUBJECTS[:count]
    messages = [[{"role": "user", "content": f"Write three sentences about this: {subject}."}] for subject in asked]
    return [Request(message, tokens, 0.3, seed) for seed, message in enumerate(messages)]


def our_client(line: Line, config: LLMConfig, asked: list[Request]) -> Work:
    """Our client, with an empty replay cache at each call."""

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder:
            cache = ReplayCache(Path(folder) / "answers.sqlite")
            answers = LLM(config, lambda _: line, cache).complete_many(asked, set_aside=True)
            cache.close()
        return sum(answer.completion_tokens for answer in answers if isinstance(answer, Answer))

    return work


def plain_http(client: httpx.Client, asked: list[Request], threads: int) -> Work:
    """Nothing but the requests."""

    def ask(request: Request) -> int:
        body: dict[str, Any] = {
            "model": "smollm2", "messages": request.messages, "max_tokens": request.max_tokens,
            "temperature": request.temperature, "seed": request.seed, **engine.REQUEST_OPTIONS,
        }  # fmt: skip
        response = client.post("chat/completions", json=body).raise_for_status()
        return response.json()["usage"]["completion_tokens"]

    def work() -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(ask, asked))

    return work


def _counted(work: Work, into: list[int]) -> Callable[[], None]:
    return lambda: into.append(work())
