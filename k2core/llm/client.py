"""The client: one interface for the embedded engine and any OpenAI-compatible server.

with LLM.open(config, compute, job.answers) as llm:
    text = llm.complete(messages, max_tokens=200, temperature=0.3, seed=0)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from k2core.llm import engine
from k2core.llm.cache import ReplayCache, request_key
from k2core.llm.config import LLMConfig
from k2core.llm.line import Line, Refusal
from k2core.llm.many import map_threads
from k2core.llm.reasoning import without_reasoning
from k2core.llm.reply import UnusableReply, parse
from k2core.llm.servers import Servers
from k2core.machine import Compute
from k2core.machine.proxies import is_loopback
from k2core.recipe import RecipeError
from k2core.storage.foreign import one_line

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.retry import retry_base
    from tqdm import tqdm

I = TypeVar("I")
R = TypeVar("R")
_THIS_REQUEST_ONLY = (400, 413, 422)
"""Statuses that are about one request's content; 401, 403, 404 and the rest would hit every request."""
_OVERLOADED = (429, 503)


class LLMUnavailable(ConnectionError):
    """The server did not answer, however often it was asked: a stage ends with `try again` (exit status 75)."""


class RequestRefused(RecipeError):
    """The server answers, but not this request (400, 413, 422, 5xx at every try), or with nothing that can be read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Request:
    """One question. With `schema` (a JSON Schema) the server's decoder makes the answer JSON of that schema."""

    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float
    seed: int
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """`finish_reason` is "stop", or "length" where `max_tokens` cut the text off."""

    text: str
    finish_reason: str
    completion_tokens: int


@dataclass(frozen=True)
class Refused:
    """A request that was set aside, and why: asking again did not, or would not, answer it."""

    reason: str


class LLM:
    """Ask a model; answers come from the replay cache where the same request was answered before."""

    def __init__(self, config: LLMConfig, connect: Callable[[int], Line], cache: ReplayCache) -> None:
        self._config, self._connect, self._cache = config, connect, cache
        self._servers = Servers(config.addresses, config.at_each)
        self._stopped = Event()

    @classmethod
    @contextmanager
    def open(cls, config: LLMConfig, compute: Compute, cache: Path) -> Iterator[LLM]:
        """Open the cache; the first request that it cannot answer starts the engine, with `compute.threads` threads.

        Raises:
            RecipeError: the weights or the API key of `config` are missing.
        """
        lines: dict[int, Line] = {}
        lock = Lock()
        if config.embedded:
            engine.weights()
        else:
            _api_key(config)

        def connect(place: int) -> Line:
            with lock:
                if place not in lines:
                    lines[place] = stack.enter_context(_connection(config, config.addresses[place], compute))
                return lines[place]

        with ExitStack() as stack:
            replay = ReplayCache(cache)
            stack.callback(replay.close)
            yield cls(config, connect, replay)

    def complete(
        self,
        messages: list[dict[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        schema: dict[str, Any] | None = None,
    ) -> str:
        """The text of one answer."""
        return self.answer(Request(messages, max_tokens, temperature, seed, schema)).text

    @overload
    def complete_many(
        self, requests: Iterable[Request], bar: tqdm | None = None, *, set_aside: Literal[False] = False
    ) -> list[Answer]: ...

    @overload
    def complete_many(
        self, requests: Iterable[Request], bar: tqdm | None = None, *, set_aside: Literal[True]
    ) -> list[Answer | Refused]: ...

    def complete_many(
        self, requests: Iterable[Request], bar: tqdm | None = None, *, set_aside: bool = False
    ) -> Sequence[Answer | Refused]:
        """Answers in the order of `requests`, at most `llm.concurrency` in flight; `bar` counts answers.

        `requests` are taken as there is room for them. The first failure stops the rest: what is in flight is finished,
        what was answered stays in the cache, and the same call goes on from there.

        Args:
            set_aside: a request that the server refuses for good, or answers with nothing usable (no text, no JSON)
                in `llm.max_attempts` tries, becomes a `Refused` instead of a failure.

        Raises:
            LLMUnavailable, RecipeError: as `answer`.
        """
        one: Callable[[Request], Answer | Refused] = self.answer_or_reason if set_aside else self.answer
        return map_threads(one, requests, self._config.in_flight, bar)

    def each(self, function: Callable[[I], R], items: Iterable[I]) -> list[R]:
        """`function`, which asks one request at a time, of each item: as many at once as requests may be in flight.

        The first failure stops the rest, as that of `complete_many` does.
        """
        return map_threads(function, items, self._config.in_flight, None)

    def stop(self) -> None:
        """Ask nothing any more: whatever is yet to be asked, in any thread, ends with `CancelledError`."""
        self._stopped.set()

    def answer(self, request: Request) -> Answer:
        """One answer, from the cache or the model; its text may be empty, and is if its reasoning never ends.

        Raises:
            LLMUnavailable: no answer after `llm.max_attempts` tries.
            RecipeError: the server refuses the request (unknown model, bad key, prompt too long) or answers garbage.
        """
        answer = self._written(request)
        return replace(answer, text=without_reasoning(answer.text) or "")

    def _written(self, request: Request) -> Answer:
        """What the model wrote, reasoning included."""
        body, key = self._body(request)
        if known := self._cache.get(key):
            return Answer(**known)
        if self._stopped.is_set():
            raise CancelledError
        answer = self._ask(body)
        if answer.text.strip() or self._config.embedded:  # another server may do better next time
            self._cache.put(key, asdict(answer))
        return answer

    def answer_or_reason(self, request: Request) -> Answer | Refused:
        """`answer`, or why there is none, as `complete_many` has it with `set_aside`."""
        try:
            written = self._written(request)
        except RequestRefused as refusal:
            return Refused(refusal.reason)
        text = without_reasoning(written.text)
        if text is None:
            return Refused("reasoning without an end")
        return replace(written, text=text) if text.strip() else Refused("empty answer")

    def _body(self, request: Request) -> tuple[dict[str, Any], str]:
        """What is sent, and its key in the cache."""
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": request.messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.schema is not None:
            form = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body, request_key({"base_url": self._config.base_url, **body})

    def _ask(self, body: dict[str, Any]) -> Answer:
        import httpx
        from tenacity import Retrying, retry_if_exception, retry_if_result

        config = self._config
        again: retry_base = retry_if_exception(_is_transient)
        if not config.embedded:  # its answer to a request is always the same
            again = again | retry_if_result(lambda answer: not answer.text.strip())
        answered: list[int] = []  # how many requests the server had answered at each failure of this one
        patience = _Patience(config)
        retrying = Retrying(
            retry=again,
            wait=self._pause,
            before_sleep=lambda _: answered.append(self._servers.answers),
            stop=patience.spent,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        try:
            return retrying(self._try, body)
        except UnusableReply as error:
            what = f"unusable answer ({one_line(error)})"
            raise RequestRefused(
                what, f"llm: {config.where} gave an {what} {config.max_attempts} times; is it OpenAI-compatible?"
            ) from None
        except Refusal as error:
            if _is_transient(error):
                gone_on = bool(answered) and self._servers.answers > answered[0]
                if error.status in _OVERLOADED and error.wait is not None:
                    raise LLMUnavailable(patience.sentence(error)) from None
                if error.status in _OVERLOADED or not gone_on:
                    raise self._unavailable(f"HTTP status {error.status}") from None
                what = f"fails at this request (status {error.status}) and answers others"
                raise RequestRefused(what, f"llm: {config.where} {what}; look into the server's log") from None
            if 300 <= error.status < 400:
                raise RecipeError(
                    f"llm: {config.where} does not answer itself (status {error.status}: {one_line(error.said)}); "
                    "set llm.base_url to the address that does"
                ) from None
            what = f"refused the request (status {error.status}: {one_line(error.said)})"
            message = f"llm: {config.where} {what}; check llm.model, llm.api_key_variable and the prompt's length"
            if error.status in _THIS_REQUEST_ONLY:
                raise RequestRefused(what, message) from None
            raise RecipeError(message) from None
        except TimeoutError:
            raise self._unavailable(f"no answer within {config.timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise self._unavailable(one_line(error)) from None

    def _try(self, body: dict[str, Any]) -> Answer:
        """One try at one of the servers, in a place of its `Pressure`."""
        import httpx

        options = engine.REQUEST_OPTIONS if self._config.embedded else {}
        with self._servers.chosen() as place, (pressure := self._servers.pressures[place]).slot() as halvings:
            try:
                content = self._connect(place).ask({**body, **options})
            except Refusal as error:
                if error.status in _OVERLOADED:
                    pressure.overloaded(halvings, min(error.wait or 0.0, self._config.max_wait_s))
                raise
            except (TimeoutError, httpx.TransportError):
                self._servers.missed(place)
                raise
            pressure.answered()
        reply = parse(content)
        choice, usage = reply.choices[0], reply.usage
        return Answer(
            choice.message.content or "", choice.finish_reason or "stop", usage.completion_tokens if usage else 0
        )

    def _pause(self, state: RetryCallState) -> float:
        """Exponential with full jitter; a server that asks for a wait (Retry-After) gets it."""
        from tenacity import wait_random_exponential

        wait = wait_random_exponential(multiplier=0.5, max=self._config.max_wait_s)(state)
        return min(max(wait, _wish(state) or 0.0), self._config.max_wait_s)

    def _unavailable(self, what: str) -> LLMUnavailable:
        return LLMUnavailable(
            f"the LLM at {self._config.where} does not answer after {self._config.max_attempts} tries ({what}); "
            "start the server, or set llm.base_url to another one or to `embedded`"
        )


class _Patience:
    """When to give a request up: after `max_attempts` tries, not counting those at which the server asks for a wait.

    A single wait may be `max_wait_s`, all of them `max_attempts` times that; a longer one ends the tries.
    """

    def __init__(self, config: LLMConfig) -> None:
        self.config, self.tries, self.waited = config, 0, 0.0

    def spent(self, state: RetryCallState) -> bool:
        """Whether the try that `state` is about was the last one."""
        wish, most = _wish(state), self.config.max_wait_s
        if wish is None:
            self.tries += 1
            return self.tries >= self.config.max_attempts
        if wish > most or self.waited + wish > most * self.config.max_attempts:
            return True
        self.waited += max(wish, state.upcoming_sleep)  # a server that asks for no time is not asked forever
        return False

    def sentence(self, refusal: Refusal) -> str:
        """Why it was the last one, if the server had asked to wait."""
        return (
            f"the LLM at {self.config.where} is overloaded (HTTP status {refusal.status}) and asks to wait "
            f"{refusal.wait:,.0f} s, after a wait of {self.waited:,.0f} s; llm.max_wait_s = {self.config.max_wait_s:g} "
            f"allows that much at a time, and {self.config.max_attempts} times as much in all (llm.max_attempts): run "
            "again later, lower llm.concurrency, or raise llm.max_wait_s"
        )


def _wish(state: RetryCallState) -> float | None:
    """The seconds for which an overloaded server asks to wait."""
    error = state.outcome.exception() if state.outcome else None
    return error.wait if isinstance(error, Refusal) and error.status in _OVERLOADED else None


@contextmanager
def _connection(config: LLMConfig, address: str, compute: Compute) -> Iterator[Line]:
    with ExitStack() as stack:
        if config.embedded:
            address, key = stack.enter_context(engine.serve(config, compute.threads))
        else:
            key = _api_key(config)
        line = _line(address, key, config.timeout_s)
        stack.callback(line.close)
        yield line


def _line(address: str, key: str, seconds: float) -> Line:
    """A line to `address`; a server on this machine is reached directly, whatever proxies are set.

    Raises:
        RecipeError: a proxy is set that httpx cannot use.
    """
    try:
        return Line(address, key, seconds, proxies=not is_loopback(address))
    except (ImportError, ValueError) as error:
        raise RecipeError(
            f"llm: the proxy for {address} cannot be used ({one_line(error)}); correct "
            "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or name the server's host in NO_PROXY"
        ) from None


def _is_transient(error: BaseException) -> bool:
    import httpx

    if isinstance(error, Refusal):
        return error.status in (408, 409, 429) or error.status >= 500
    return isinstance(error, (UnusableReply, TimeoutError, httpx.TransportError))


def _api_key(config: LLMConfig) -> str:
    if not config.api_key_variable:
        return ""
    if key := os.environ.get(config.api_key_variable):
        return key
    raise RecipeError(f"llm.api_key_variable = {config.api_key_variable!r}: no such environment variable; export it")
