"""`parse_assistant` for a text that comes in pieces: the same words and calls, wherever it is cut.

A call is told as soon as its tool is known, and its arguments as they are written. A call that is cut off or torn by
another control token has a beginning and no end; `parse_assistant` leaves it out, and so does `collected`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from k2core.chat.parser import SECTION_BEGIN, SECTION_END, ToolCall, called_tool, fitting_tool, is_counter
from k2core.chat.special_tokens import IM_END, TOOL_CALL_ARGUMENT_BEGIN, TOOL_CALL_BEGIN, TOOL_CALL_END

MARKERS = (
    IM_END, TOOL_CALL_BEGIN, TOOL_CALL_ARGUMENT_BEGIN, TOOL_CALL_END,
    *(f"<|tool_call{s}_section_{end}|>" for s in ("", "s") for end in ("begin", "end")),
)  # fmt: skip
"""None is a part of another, and none begins within another: each begins with the only `<` that it has."""
MARKER = re.compile("|".join(map(re.escape, MARKERS)))


@dataclass(frozen=True)
class Words:
    """Text that the assistant says."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """A call of tool `name`."""

    id: str
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the arguments of the call that has begun last."""

    text: str


@dataclass(frozen=True)
class CallEnds:
    """The call that has begun last is whole."""


Event = Words | CallBegins | Arguments | CallEnds


class StreamParser:
    """Takes a reply piece by piece, control tokens included.

    Args:
        declared: as in `parse_assistant`. A call whose id is a mere number among several tools is told at its end,
            because its tool follows from its arguments.
    """

    def __init__(self, declared: Sequence[dict[str, Any]] | None = None) -> None:
        self.declared = declared
        self.held = ""  # perhaps the beginning of a marker
        self.inside: Literal["words", "section", "header", "arguments", "unnamed", "beyond", "over"] = "words"
        self.header = self.arguments = self.space = ""

    def take(self, piece: str) -> list[Event]:
        """What `piece` makes certain."""
        text, at = self.held + piece, 0
        events: list[Event] = []
        for found in MARKER.finditer(text):
            events += self._text(text[at : found.start()]) + self._marker(found[0])
            at = found.end()
        cut = text.rfind("<", at)
        if cut < 0 or not any(marker.startswith(text[cut:]) for marker in MARKERS):
            cut = len(text)
        self.held = text[cut:]
        return events + self._text(text[at:cut])

    def end(self) -> list[Event]:
        """What is left after the last piece."""
        held, self.held = self.held, ""
        return self._text(held)

    def _text(self, text: str) -> list[Event]:
        if self.inside == "words":
            return [Words(text)] if text else []
        if self.inside == "header":
            self.header += text
        elif self.inside == "unnamed":
            self.arguments += text
        elif self.inside == "arguments":
            text = self.space + text  # of the spaces around the arguments none is told
            said = text.rstrip() if self.arguments else text.strip()
            self.space = text[len(text.rstrip()) :] if said or self.arguments else ""
            self.arguments += said
            return [Arguments(said)] if said else []
        return []

    def _marker(self, marker: str) -> list[Event]:
        if self.inside == "over":
            return []
        if marker == IM_END:
            self.inside = "over"
        elif SECTION_BEGIN.fullmatch(marker):
            self.inside = "section"
        elif self.inside == "beyond":
            pass
        elif marker == TOOL_CALL_BEGIN:
            self.inside, self.header = "header", ""
        elif self.inside == "words":
            return [Words(marker)]
        elif SECTION_END.fullmatch(marker):
            self.inside = "beyond"
        elif marker == TOOL_CALL_ARGUMENT_BEGIN:
            return self._arguments_begin()
        elif marker == TOOL_CALL_END:
            return self._call_ends()
        return []

    def _arguments_begin(self) -> list[Event]:
        if self.inside != "header":
            return self._text(TOOL_CALL_ARGUMENT_BEGIN)
        self.header, self.arguments, self.space = self.header.strip(), "", ""
        if name := called_tool(self.header, self.declared):
            self.inside = "arguments"
            return [CallBegins(self.header, name)]
        self.inside = "unnamed" if self.declared and is_counter(self.header) else "section"
        return []

    def _call_ends(self) -> list[Event]:
        was, self.inside = self.inside, "section"
        if was == "arguments":
            return [CallEnds()]
        if was == "unnamed" and (name := fitting_tool(self.arguments, self.declared or ())):
            return [CallBegins(self.header, name), Arguments(self.arguments.strip()), CallEnds()]
        return []


def merged(events: Iterable[Event]) -> list[Event]:
    """`events` with neighbouring words, and neighbouring arguments, as one."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Words) and isinstance(last, Words):
            result[-1] = Words(last.text + event.text)
        elif isinstance(event, Arguments) and isinstance(last, Arguments):
            result[-1] = Arguments(last.text + event.text)
        else:
            result.append(event)
    return result


def collected(events: Iterable[Event]) -> tuple[str, list[ToolCall]]:
    """The words and the whole calls of a reply."""
    content, calls, begun, arguments = "", [], None, ""
    for event in events:
        if isinstance(event, Words):
            content += event.text
        elif isinstance(event, CallBegins):
            begun, arguments = event, ""
        elif isinstance(event, Arguments):
            arguments += event.text
        elif begun:
            calls.append(ToolCall(begun.id, begun.name, arguments))
            begun = None
    return content, calls
