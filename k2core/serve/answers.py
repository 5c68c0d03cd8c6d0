"""Answers as OpenAI's clients read them: whole, or as chunks while they are written."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, ClassVar

from k2core.chat.stream_parser import Arguments, CallBegins, Event, Words, collected, merged
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.live import Asked, Failed, Heard, Scored, Token
from k2core.serve.choice import LEAST, Choice, Spoken, chat_logprobs, completion_logprobs

News = list[tuple[int, list[Event]]]


class Lost(Exception):
    """The engine has given an answer up."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Answer:
    """All choices of a request; chat and completions differ in how they are written down."""

    prefix: ClassVar[str]
    object: ClassVar[str]
    chunk: ClassVar[str]
    chat: ClassVar[bool]

    def __init__(
        self, model: str, tokenizer: Tokenizer, asked: Sequence[Asked], stops: Sequence[str], usage: bool
    ) -> None:
        self.tokenizer, self.asked, self.with_usage = tokenizer, asked, usage
        self.choices = [Choice(tokenizer, one, stops, self.chat) for one in asked]
        self.queue: asyncio.Queue[tuple[int, Heard]] = asyncio.Queue()
        for index, one in enumerate(asked):
            one.hear = partial(self._hear, index)
        self.head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def leave(self) -> None:
        """Nobody listens any more: the rows are free."""
        for one in self.asked:
            one.gone = True

    async def whole(self) -> dict[str, Any]:
        """The body of a response that is not streamed."""
        events: list[list[Event]] = [[] for _ in self.choices]
        async for news in self._news():
            for index, new in news:
                events[index] += new
        choices = [self._whole(index, of) for index, of in enumerate(events)]
        return {**self.head, "object": self.object, "choices": choices, "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The bodies of the events of a response that is streamed."""
        head = {**self.head, "object": self.chunk} | ({"usage": None} if self.with_usage else {})
        for index in range(len(self.choices)):
            for choice in self._begin(index):
                yield head | {"choices": [choice]}
        async for news in self._news():
            for index, new in news:
                for choice in self._pieces(index, merged(new)):
                    yield head | {"choices": [choice]}
        if self.with_usage:
            yield head | {"choices": [], "usage": self._usage()}

    async def _news(self) -> AsyncIterator[News]:
        """What there is to tell, until all is told; what came while a chunk was on its way comes as one."""
        while not all(choice.finish for choice in self.choices):
            heard = [await self.queue.get()]
            while not self.queue.empty():
                heard.append(self.queue.get_nowait())
            new: dict[int, list[Event]] = {}
            for index, one in heard:
                if isinstance(one, Failed):
                    raise Lost(one.reason)
                took = self.choices[index].take(one) if isinstance(one, Token) else self._read(index, one)
                new.setdefault(index, []).extend(took)
            yield list(new.items())

    def _hear(self, index: int, heard: Heard) -> None:
        self.queue.put_nowait((index, heard))

    def _read(self, index: int, scored: Scored) -> list[Event]:
        """Log-probabilities of the prompt, which are told before those of the answer."""
        prompt, choice = self.asked[index].prompt, self.choices[index]
        if self.asked[index].likeliest is not None:
            choice.spoken = [Spoken(prompt[0], None, []), *(
                Spoken(token, max(log_prob, LEAST), likeliest)
                for token, log_prob, likeliest in zip(prompt[1:], scored.log_probs, scored.likeliest, strict=True)
            )]  # fmt: skip
        choice.finish = scored.finish
        return []

    def _usage(self) -> dict[str, int]:
        prompts = {id(one.prompt): len(one.prompt) for one in self.asked}  # n choices share one prompt
        read, written = sum(prompts.values()), sum(choice.tokens for choice in self.choices)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _begin(self, index: int) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _pieces(self, index: int, events: list[Event]) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _whole(self, index: int, events: list[Event]) -> dict[str, Any]:
        raise NotImplementedError


class ChatAnswer(Answer):
    """Of `chat/completions`."""

    prefix, object, chunk, chat = "chatcmpl", "chat.completion", "chat.completion.chunk", True

    def _begin(self, index: int) -> list[dict[str, Any]]:
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def _pieces(self, index: int, events: list[Event]) -> list[dict[str, Any]]:
        choice = self.choices[index]
        begun = choice.calls - sum(isinstance(event, CallBegins) for event in events)
        deltas: list[dict[str, Any]] = []
        for event in events:
            if isinstance(event, Words):
                deltas.append({"content": event.text})
            elif isinstance(event, CallBegins):
                function = {"name": event.name, "arguments": ""}
                deltas.append({"tool_calls": [
                    {"index": begun, "id": event.id, "type": "function", "function": function}]})  # fmt: skip
                begun += 1
            elif isinstance(event, Arguments):
                deltas.append({"tool_calls": [{"index": begun - 1, "function": {"arguments": event.text}}]})
        spoken = choice.fresh()
        if not deltas and (spoken or choice.finish):
            deltas.append({})
        pieces = [self._delta(index, delta) for delta in deltas]
        if spoken:
            pieces[0]["logprobs"] = {"content": chat_logprobs(self.tokenizer, spoken)}
        if choice.finish:
            pieces[-1]["finish_reason"] = choice.finish
        return pieces

    def _delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _whole(self, index: int, events: list[Event]) -> dict[str, Any]:
        choice, (content, calls) = self.choices[index], collected(events)
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
        if calls:
            message["tool_calls"] = [call.wire() for call in calls]
        told = choice.asked.likeliest is not None
        logprobs = {"content": chat_logprobs(self.tokenizer, choice.fresh())} if told else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish}


class CompletionAnswer(Answer):
    """Of `completions`.

    Args:
        echo: whether the prompt is told first.
    """

    prefix, object, chunk, chat = "cmpl", "text_completion", "text_completion", False

    def __init__(self, *args: Any, echo: bool) -> None:
        super().__init__(*args)
        self.offsets = [0] * len(self.choices)
        self.echoes = [self.tokenizer.decode(one.prompt) if echo else "" for one in self.asked]

    def _begin(self, index: int) -> list[dict[str, Any]]:
        return [self._piece(index, self.echoes[index])] if self.echoes[index] else []

    def _pieces(self, index: int, events: list[Event]) -> list[dict[str, Any]]:
        choice = self.choices[index]
        text = "".join(event.text for event in events if isinstance(event, Words))
        if not text and not choice.spoken and not choice.finish:
            return []
        piece = self._piece(index, text)
        if choice.asked.likeliest is not None:
            piece["logprobs"] = completion_logprobs(self.tokenizer, choice.fresh(), self.offsets[index])
            self.offsets[index] += sum(map(len, piece["logprobs"]["tokens"]))
        piece["finish_reason"] = choice.finish
        return [piece]

    def _piece(self, index: int, text: str) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def _whole(self, index: int, events: list[Event]) -> dict[str, Any]:
        (piece,) = self._pieces(index, events)
        return piece | {"text": self.echoes[index] + piece["text"]}
