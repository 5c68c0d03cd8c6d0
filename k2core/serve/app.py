"""The application: who may ask, what a request must be, and which answers it gets.

Faults come in OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from k2core.chat.tokenizer import Tokenizer
from k2core.formats.huggingface import load_huggingface
from k2core.inference.constraint import Constraint
from k2core.inference.enforcer import Enforcer
from k2core.inference.live import Asked, Busy, Engine, Heard
from k2core.inference.rollouts import encode_prompt
from k2core.model.transformer import Transformer
from k2core.serve.answers import Answer, ChatAnswer, CompletionAnswer, Lost
from k2core.serve.refused import Refused
from k2core.serve.wire import ChatRequest, CompletionRequest, NamedTool, Sampling, first_fault
from k2core.stage import StageError
from k2core.storage import parse_json
from k2core.storage.foreign import one_line

MOST_BYTES = 4 * 2**20
"""Of a request's body."""
COMPLETION_TOKENS = 16
"""OpenAI's default for `completions`."""
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
"""What a client on this machine calls it."""
Body = TypeVar("Body", bound=Sampling)


@dataclass(frozen=True)
class Limits:
    """How much is taken on at once.

    Attributes:
        rows: answers that are written at the same time.
        waiting: answers that may wait for a row.
        context: tokens of a prompt with its answer.
    """

    rows: int
    waiting: int
    context: int


@dataclass(frozen=True)
class Served:
    """A model that can be asked by its name."""

    name: str
    model: Transformer
    tokenizer: Tokenizer
    enforcer: Enforcer
    limits: Limits
    born: int

    @classmethod
    def load(cls, folder: Path, rows: int, waiting: int) -> Served:
        """The exported model of `folder`, under the folder's name.

        Raises:
            StorageError, RecipeError: it is no such folder.
        """
        model, tokenizer = load_huggingface(folder).eval(), Tokenizer.load(folder)
        limits = Limits(rows, waiting, model.config.max_position_embeddings)
        name = folder.resolve().name
        return cls(name, model, tokenizer, Enforcer(tokenizer), limits, int(time.time()))


def application(served: Served, key: str = "", local: bool = True) -> Starlette:
    """The server's application; it decodes while its lifespan lasts.

    Args:
        key: what clients must show; empty: nothing.
        local: whether it answers only to names of this machine, lest a web page reach it by a name of its own.
    """
    desk = Desk(served)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def spread(said: list[tuple[Asked, Heard]]) -> None:
            for asked, heard in said:
                asked.hear(heard)

        def tell(said: list[tuple[Asked, Heard]]) -> None:
            loop.call_soon_threadsafe(spread, said)

        limits = served.limits
        desk.engine = Engine(
            served.model, rows=limits.rows, slots=limits.context, waiting=limits.waiting, tell=tell
        )  # fmt: skip
        try:
            yield
        finally:
            await asyncio.to_thread(desk.engine.close)

    async def guarded(request: Request, answer: Callable[[Request], Any]) -> Response:
        if local and not LOCAL.fullmatch(request.headers.get("host", "")):
            raise Refused(421, "this server has no other name than localhost", code="wrong_host")
        shown = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if key and not hmac.compare_digest(shown, key.encode()):
            raise Refused(401, "the API key is missing or wrong", code="invalid_api_key")
        return await answer(request)

    def route(path: str, answer: Callable[[Request], Any], method: str) -> Route:
        return Route(f"/v1/{path}", partial(guarded, answer=answer), methods=[method])

    app = Starlette(
        routes=[
            route("models", desk.models, "GET"),
            route("models/{name:path}", desk.model, "GET"),
            route("chat/completions", desk.chat, "POST"),
            route("completions", desk.complete, "POST"),
        ],
        exception_handlers={Refused: _refusal, HTTPException: _refusal, ClientDisconnect: _unread},
        lifespan=lifespan,
    )
    app.state.desk = desk
    return app


async def _refusal(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        reason = {404: f"there is no {request.url.path}", 405: f"{request.url.path} takes no {request.method}"}
        error = Refused(error.status_code, reason.get(error.status_code, str(error.detail)))
    assert isinstance(error, Refused)
    return JSONResponse(error.body(), error.status, headers=error.headers)


class Desk:
    """Takes requests, and hands out answers."""

    engine: Engine

    def __init__(self, served: Served) -> None:
        self.served = served

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._named(request.path_params["name"])
        return JSONResponse(self._card())

    async def chat(self, request: Request) -> Response:
        body = await self._body(request, ChatRequest)
        messages, tools = body.dialogue(), body.declarations()
        prompt, constraint = await asyncio.to_thread(self._chat_prompt, body, messages, tools)
        wanted = body.max_completion_tokens or body.max_tokens
        asked = self._asked(
            body, [prompt], wanted or max(1, self.served.limits.context - len(prompt)), constraint=constraint,
            stop_ids={self.served.tokenizer.im_end_id}, likeliest=(body.top_logprobs or 0) if body.logprobs else None,
        )  # fmt: skip
        return await self._answer(request, body, asked, ChatAnswer)

    async def complete(self, request: Request) -> Response:
        body = await self._body(request, CompletionRequest)
        tokenizer = self.served.tokenizer
        prompts = await asyncio.to_thread(lambda: [self._prompt(prompt) for prompt in body.prompts])
        most = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        if not most and not body.echo:
            raise Refused(400, "max_tokens: 0 asks for nothing, unless echo is true", "max_tokens")
        asked = self._asked(
            body, prompts, most, stop_ids={tokenizer.im_end_id, tokenizer.eos_id}, likeliest=body.logprobs,
            scored=bool(body.echo) and (body.logprobs is not None or not most),
        )  # fmt: skip
        return await self._answer(request, body, asked, partial(CompletionAnswer, echo=bool(body.echo)))

    def _card(self) -> dict[str, Any]:
        return {"id": self.served.name, "object": "model", "created": self.served.born, "owned_by": "k2-recipe"}

    def _named(self, name: str) -> None:
        if name != self.served.name:
            known = self.served.name
            raise Refused(404, f"there is no model {one_line(name)}, only {known}", "model", "model_not_found")

    async def _body(self, request: Request, kind: type[Body]) -> Body:
        """The body as `kind`; JSON alone, which no page of another site can send unasked."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the body must be JSON, with content-type application/json")
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > MOST_BYTES:
                raise Refused(413, f"the body is larger than {MOST_BYTES:,} bytes")
            parts.append(part)
        try:
            content = parse_json(b"".join(parts).decode())
        except ValueError as error:
            raise Refused(400, f"the body is not JSON ({one_line(error)})") from None
        try:
            body = kind.model_validate(content)
        except ValidationError as error:
            message, parameter = first_fault(error, content)
            raise Refused(400, one_line(message), parameter) from None
        self._named(body.model)
        return body

    def _chat_prompt(
        self, body: ChatRequest, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> tuple[tuple[int, ...], Constraint]:
        choice, allowed = body.tool_choice, tools
        if isinstance(choice, NamedTool):
            allowed = [tool for tool in tools if tool["function"]["name"] == choice.function.name]
        elif choice == "none":
            allowed = []
        try:
            return encode_prompt(self.served.tokenizer, messages, tools), self.served.enforcer.constraint(
                messages, allowed, due=choice == "required" or isinstance(choice, NamedTool),
                single=body.parallel_tool_calls is False or isinstance(choice, NamedTool),
            )  # fmt: skip
        except StageError as error:
            raise Refused(400, one_line(error), "tools") from None

    def _prompt(self, prompt: str | list[int]) -> tuple[int, ...]:
        """Token ids of a raw prompt, in which control tokens may be written; an empty one begins a document."""
        tokenizer = self.served.tokenizer
        ids = tokenizer.encode(prompt, allow_special=True) if isinstance(prompt, str) else prompt
        if any(token >= tokenizer.vocab_size for token in ids):
            raise Refused(400, f"prompt: token ids are below {tokenizer.vocab_size}", "prompt")
        return tuple(ids) or (tokenizer.eos_id,)

    def _asked(
        self, body: Sampling, prompts: Sequence[tuple[int, ...]], most: int, *, stop_ids: set[int],
        likeliest: int | None, constraint: Constraint | None = None, scored: bool = False,
    ) -> list[Asked]:  # fmt: skip
        """A row for each choice of each prompt; they are not yet asked."""
        limits = self.served.limits
        longest, count = max(map(len, prompts)), len(prompts) * (body.n or 1)
        if longest + most > limits.context:
            raise Refused(
                400, f"the prompt has {longest} tokens and its answer up to {most}; the model's context has "
                f"{limits.context}", "messages" if isinstance(body, ChatRequest) else "prompt",
                "context_length_exceeded",
            )  # fmt: skip
        if count > limits.waiting:
            raise Refused(400, f"{count} answers are wanted at once; {limits.waiting} are the most", "n")
        seed = secrets.randbits(64) if body.seed is None else body.seed
        return [
            Asked(
                prompt=prompt, most=most, temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p, stop_ids=frozenset(stop_ids),
                random=Random(f"{seed}/{number}/{n}"), state=constraint.begin() if constraint else None,
                likeliest=likeliest, scored=scored, hear=lambda heard: None,
            )
            for number, prompt in enumerate(prompts) for n in range(body.n or 1)
        ]  # fmt: skip

    async def _answer(
        self, request: Request, body: Sampling, asked: list[Asked], kind: Callable[..., Answer]
    ) -> Response:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        answer = kind(self.served.name, self.served.tokenizer, asked, body.stops, usage)
        try:
            self.engine.ask(asked)
        except Busy:
            raise Refused(
                429, f"{self.served.limits.waiting} answers wait already; ask again in a moment", code="queue_full",
                headers={"retry-after": "1"},
            ) from None  # fmt: skip
        if body.stream:
            return StreamingResponse(_events(answer), media_type="text/event-stream")
        whole, left = asyncio.create_task(answer.whole()), asyncio.create_task(_left(request))
        try:
            await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(await whole) if whole.done() else await _unread(request)
        except Lost as error:
            raise Refused(503, error.reason, code="engine") from None
        finally:
            answer.leave()
            for task in (whole, left):
                task.cancel()


async def _unread(request: Request, error: Exception | None = None) -> Response:
    """For a client that is gone."""
    return Response(status_code=499)


async def _left(request: Request) -> None:
    """Returns when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(answer: Answer) -> AsyncIterator[str]:
    """Server-sent events; a client that goes ends them here, and its rows with them."""
    try:
        async for chunk in answer.chunks():
            yield f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"
    except Lost as error:
        yield f"data: {json.dumps(Refused(503, error.reason, code='engine').body())}\n\n"
    finally:
        answer.leave()
