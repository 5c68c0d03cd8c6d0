"""One answer on its way to a client: tokens in, words, calls and log-probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from k2core.chat.detokenizer import Detokenizer
from k2core.chat.stream_parser import CallBegins, CallEnds, Event, StreamParser, Words
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.live import Asked, Likeliest, Token

LEAST = -9999.0
"""OpenAI's log-probability of what cannot be: JSON has no infinity."""


@dataclass(frozen=True)
class Spoken:
    """A token that a client is told of, with its log-probability; None for the first token of a prompt."""

    id: int
    log_prob: float | None
    likeliest: Likeliest


class Stops:
    """Words up to the first of `stops`, which may itself come in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.met = stops, "", False

    def take(self, text: str) -> str:
        """What is certain to come before a stop."""
        if self.met or not self.stops:
            return "" if self.met else text
        text = self.held + text
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.met, self.held = True, ""
            return text[: min(found)]
        longest = max(map(len, self.stops)) - 1
        cut = next(
            (at for at in range(max(0, len(text) - longest), len(text))
             if any(stop.startswith(text[at:]) for stop in self.stops)), len(text),
        )  # fmt: skip
        self.held = text[cut:]
        return text[:cut]

    def end(self) -> str:
        """What is left: it began as a stop does, and no more came."""
        held, self.held = self.held, ""
        return held


class Choice:
    """An answer so far.

    Args:
        stops: strings before which its words end; what it writes into a call ends nothing.
        chat: whether its calls are told apart from its words.
    """

    def __init__(self, tokenizer: Tokenizer, asked: Asked, stops: Sequence[str], chat: bool) -> None:
        self.asked, self.stops = asked, Stops(stops)
        self.words = Detokenizer(tokenizer)
        self.parser = StreamParser() if chat else None
        self.finish: str | None = None
        self.tokens = 0
        self.calls = 0
        self.within = False  # a call that has begun and not ended
        self.spoken: list[Spoken] = []

    def take(self, token: Token) -> list[Event]:
        """What `token` adds."""
        if self.finish:  # sampled before the engine saw that a stop was met
            return []
        self.tokens += 1
        if token.finish != "stop" and token.log_prob is not None:
            self.spoken.append(Spoken(token.id, max(token.log_prob, LEAST), token.likeliest))
        piece = "" if token.finish == "stop" else self.words.take(token.id)
        if token.finish:
            piece += self.words.end()
        events: list[Event] = self.parser.take(piece) if self.parser else [Words(piece)]
        if token.finish and self.parser:
            events += self.parser.end()
        kept = self._before_stops(events)
        if self.stops.met:
            self.finish, self.asked.gone = "stop", True
        elif token.finish:
            kept.append(Words(self.stops.end()))
            self.finish = token.finish
            if self.calls and token.finish == "stop":  # what a schema demands may be what no call can hold
                self.finish = "length" if self.within else "tool_calls"
        return [event for event in kept if not isinstance(event, Words) or event.text]

    def _before_stops(self, events: Iterable[Event]) -> list[Event]:
        kept: list[Event] = []
        for event in events:
            if isinstance(event, Words):
                kept.append(Words(self.stops.take(event.text)))
            else:
                if isinstance(event, CallBegins):
                    kept.append(Words(self.stops.end()))
                    self.calls += 1
                self.within = not isinstance(event, CallEnds)
                kept.append(event)
            if self.stops.met:
                break
        return kept

    def fresh(self) -> list[Spoken]:
        """What has been spoken since the last time."""
        spoken, self.spoken = self.spoken, []
        return spoken


def chat_logprobs(tokenizer: Tokenizer, spoken: Iterable[Spoken]) -> list[dict[str, Any]]:
    """`logprobs.content` of a chat completion."""

    def entry(token: int, log_prob: float | None) -> dict[str, Any]:
        own = tokenizer.bytes_of(token)
        return {"token": own.decode(errors="replace"), "logprob": log_prob, "bytes": list(own)}

    return [
        entry(one.id, one.log_prob) | {"top_logprobs": [entry(token, max(p, LEAST)) for token, p in one.likeliest]}
        for one in spoken
    ]


def completion_logprobs(tokenizer: Tokenizer, spoken: Sequence[Spoken], offset: int) -> dict[str, Any]:
    """`logprobs` of a completion; `offset` is where in the text its first token begins."""
    texts = [tokenizer.bytes_of(one.id).decode(errors="replace") for one in spoken]
    offsets = [offset + sum(map(len, texts[:number])) for number in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [one.log_prob for one in spoken],
        "top_logprobs": [_by_text(tokenizer, one) for one in spoken],
        "text_offset": offsets,
    }


def _by_text(tokenizer: Tokenizer, one: Spoken) -> dict[str, float] | None:
    """The likeliest tokens by their text; of two that look alike, half characters, the likelier."""
    if one.log_prob is None:
        return None
    falling = [(tokenizer.bytes_of(token).decode(errors="replace"), max(p, LEAST)) for token, p in one.likeliest]
    return dict(reversed(falling))
