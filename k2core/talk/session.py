"""A dialogue between a person and a model: replies as they are written, calls that are really made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k2core.agentic.dialogues.dialogue import MAX_REPLIES
from k2core.chat.parser import SECTION_BEGIN, ParsedMessage, ToolCall, parse_assistant
from k2core.chat.special_tokens import IM_END
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.enforcer import Enforcer
from k2core.inference.rollouts import encode_prompt
from k2core.inference.stream import stream
from k2core.model.transformer import Transformer

if TYPE_CHECKING:
    from k2core.talk.tools import Tools

DECLINED = "the user declined this call"


class Full(Exception):
    """The dialogue leaves no room for a reply in the model's context."""


@dataclass
class Session:
    """What has been said, and with which tools.

    Args:
        temperature: 0 is greedy.
        tools: those that the model is told of, and how a call is made.
        heard: is given each piece of a reply's text as soon as it is there.
        called: is given each call with its result, or with `DECLINED`.
        allowed: whether a call may be made; it is asked where `tools` act on the world outside.
        system: the system message where `tools` have none of their own.
    """

    model: Transformer
    tokenizer: Tokenizer
    enforcer: Enforcer
    max_new_tokens: int
    temperature: float
    seed: int
    heard: Callable[[str], None]
    called: Callable[[ToolCall, str], None]
    allowed: Callable[[ToolCall], bool]
    system: str
    tools: Tools | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin(self.tools)

    def begin(self, tools: Tools | None) -> None:
        """Start over, with other tools or none."""
        self.tools = tools
        self.messages = [{"role": "system", "content": (tools.system if tools else "") or self.system}]

    def say(self, text: str) -> None:
        """Say `text` and hear the model out: its replies, and the calls between them.

        Ctrl-C ends the reply that is being written and what would follow; what stands is kept.

        Raises:
            Full: the context is used up; what was said is taken back.
        """
        before = len(self.messages)
        self.messages.append({"role": "user", "content": text})
        try:
            for _ in range(MAX_REPLIES):
                reply = self._reply()
                self.messages.append(reply.wire())
                if not reply.tool_calls:
                    return
                for call in reply.tool_calls:
                    result = self._make(call)
                    self.called(call, result)
                    self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        except Full:
            del self.messages[before:]
            raise

    @property
    def used(self) -> int:
        """Tokens of the dialogue so far, up to where a reply would begin."""
        return len(encode_prompt(self.tokenizer, self.messages, self._declared()))

    @property
    def room(self) -> int:
        """Tokens that the model's context has."""
        return self.model.config.max_position_embeddings

    def _declared(self) -> list[dict[str, Any]]:
        return self.tools.declarations if self.tools else []

    def _reply(self) -> ParsedMessage:
        prompt = encode_prompt(self.tokenizer, self.messages, self._declared())
        budget = min(self.max_new_tokens, self.room - len(prompt))
        if budget < 1:
            raise Full(f"the dialogue takes {len(prompt)} of the model's {self.room} tokens; /new begins another one")
        tokens: list[int] = []
        shown = 0
        try:
            for token in stream(
                self.model, prompt, max_new_tokens=budget, temperature=self.temperature,
                stop_ids={self.tokenizer.im_end_id}, seed=f"{self.seed}/{len(self.messages)}",
                constraint=self.enforcer.constraint(self.messages, self._declared()),
            ):  # fmt: skip
                tokens.append(token)
                text = _visible(self.tokenizer.decode_reply(tokens))
                self.heard(text[shown:])
                shown = max(shown, len(text))
        except KeyboardInterrupt:
            return ParsedMessage(_visible(self.tokenizer.decode_reply(tokens)), [])
        return parse_assistant(self.tokenizer.decode_reply(tokens))

    def _make(self, call: ToolCall) -> str:
        if self.tools is None:
            return "no tools are running"
        if self.tools.outside and not self.allowed(call):
            return DECLINED
        return self.tools.make(call)


def _visible(text: str) -> str:
    """The part of an unfinished reply that is words: no calls, no end, no half of a character."""
    return SECTION_BEGIN.split(text.split(IM_END, 1)[0], maxsplit=1)[0].rstrip("\ufffd")
