"""K2's chat format as text and as tokens with the loss mask.

The released template (K2-Instruct): tool declarations first, in a system message named `tool_declare`; then the system
message, and the dialogue. Only the default system message is in other words than K2's. A call's id is
`functions.NAME:IDX`; results come back as `## Return of ID`. There is no `<think>`, so the text only ever grows at its
end: a prefix of the dialogue renders to a prefix of the dialogue's text. `chat_template.jinja` is the same for
`transformers`, with tools in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from k2core.chat.special_tokens import (
    DEFAULT_SYSTEM,
    IM_ASSISTANT,
    IM_END,
    IM_MIDDLE,
    IM_SYSTEM,
    IM_USER,
    TOOL_CALL_ARGUMENT_BEGIN,
    TOOL_CALL_BEGIN,
    TOOL_CALL_END,
    TOOL_CALLS_SECTION_BEGIN,
    TOOL_CALLS_SECTION_END,
)
from k2core.chat.typescript import declare

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

Message = dict[str, Any]
Tool = dict[str, Any]
ToolFormat = Literal["typescript", "json"]
IMAGE = "<|media_start|>image<|media_content|><|media_pad|><|media_end|>\n"
"""What the released template writes for a picture: plain text to K2, whose vocabulary has no such tokens."""
OPENERS = {"system": IM_SYSTEM, "tool": IM_SYSTEM, "user": IM_USER, "assistant": IM_ASSISTANT}


@dataclass(frozen=True)
class Piece:
    """A stretch of the rendered text: one control token or plain text, sampled by the model or given to it."""

    text: str
    special: bool
    sampled: bool


def render(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    add_generation_prompt: bool = False,
    tool_format: ToolFormat = "typescript",
) -> str:
    """The dialogue as text. Text that looks like a control token is not marked: encode with `encode_dialogue`.

    Raises:
        ValueError: a message whose role is none of system, user, assistant, tool, or whose content is neither text nor
            parts nor null.
    """
    return "".join(piece.text for piece in pieces(messages, tools, add_generation_prompt, tool_format))


def encode_dialogue(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None = None,
    tool_format: ToolFormat = "typescript",
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[int]]:
    """Token ids and, for each, 1 if the model samples it.

    Sampled are an assistant's content, its calls and its `<|im_end|>`, not its header. Control tokens come only from
    the template: the same characters inside a message stay plain text, so no user can forge a turn.
    """
    return _encode(tokenizer, pieces(messages, tools, add_generation_prompt, tool_format))


def encode_continuation(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids that follow the end of an assistant's turn: `messages`, and the prompt to generate the next turn."""
    return _encode(tokenizer, _turns(messages, add_generation_prompt=True))[0]


def pieces(
    messages: Sequence[Message], tools: Sequence[Tool] | None, add_generation_prompt: bool, tool_format: ToolFormat
) -> Iterator[Piece]:
    """The template itself; no two plain pieces are adjacent unless `sampled` differs."""
    if tools:
        text = declare(tools) if tool_format == "typescript" else json.dumps(list(tools), ensure_ascii=False)
        yield from _turn(IM_SYSTEM, "tool_declare", text)
    if messages and messages[0]["role"] != "system":
        yield from _turn(IM_SYSTEM, "system", DEFAULT_SYSTEM)
    yield from _turns(messages, add_generation_prompt)


def _encode(tokenizer: Tokenizer, rendered: Iterator[Piece]) -> tuple[list[int], list[int]]:
    """Token ids, and for each 1 if it is sampled."""
    ids: list[int] = []
    mask: list[int] = []
    for piece in rendered:
        new = [tokenizer.id_of(piece.text)] if piece.special else tokenizer.encode(piece.text)
        ids += new
        mask += [int(piece.sampled)] * len(new)
    return ids, mask


def _turns(messages: Sequence[Message], add_generation_prompt: bool) -> Iterator[Piece]:
    for message in messages:
        role, content = message["role"], _text(message)
        if role not in OPENERS:
            raise ValueError(f"no role {role!r} in a dialogue; roles are {', '.join(OPENERS)}")
        name = message.get("name") or role
        if role == "tool":
            content = f"## Return of {message['tool_call_id']}\n{content}"
        if role == "assistant":
            yield from _header(IM_ASSISTANT, name)
            yield from _assistant(content, message.get("tool_calls") or [])
        else:
            yield from _turn(OPENERS[role], name, content)
    if add_generation_prompt:
        yield from _header(IM_ASSISTANT, "assistant")


def _text(message: Message) -> str:
    """The content of a message: as it is, its parts one after another, or nothing for null."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise ValueError(f"content must be text or a list of parts, each an object: {str(content)[:80]}")
    return "".join(IMAGE if _is_picture(part) else part.get("text") or "" for part in content)


def _is_picture(part: dict[str, Any]) -> bool:
    return part.get("type") == "image" or "image" in part or "image_url" in part


def _header(opener: str, name: str) -> Iterator[Piece]:
    yield Piece(opener, True, False)
    yield Piece(name, False, False)
    yield Piece(IM_MIDDLE, True, False)


def _turn(opener: str, name: str, content: str) -> Iterator[Piece]:
    yield from _header(opener, name)
    if content:
        yield Piece(content, False, False)
    yield Piece(IM_END, True, False)


def _assistant(content: str, calls: Sequence[dict[str, Any]]) -> Iterator[Piece]:
    if content:
        yield Piece(content, False, True)
    if calls:
        yield Piece(TOOL_CALLS_SECTION_BEGIN, True, True)
        for call in calls:
            arguments = call["function"]["arguments"]
            if not isinstance(arguments, str):
                arguments = json.dumps(arguments, ensure_ascii=False)
            yield Piece(TOOL_CALL_BEGIN, True, True)
            yield Piece(call["id"], False, True)
            yield Piece(TOOL_CALL_ARGUMENT_BEGIN, True, True)
            yield Piece(arguments, False, True)
            yield Piece(TOOL_CALL_END, True, True)
        yield Piece(TOOL_CALLS_SECTION_END, True, True)
    yield Piece(IM_END, True, True)


def reply_text(message: Message) -> str:
    """What a model has to write after the generation prompt to say `message`, its end token included."""
    return "".join(piece.text for piece in _assistant(_text(message), message.get("tool_calls") or []))
