"""Assistant text back into content and tool calls; whatever a model writes, nothing here raises.

Accepted beyond the template's own output: spaces around control tokens (as in the official regex), the singular
`<|tool_call_section_begin|>` seen in the wild, names with `-` and `.`, several sections. What is cut off or out of
place is reported in `errors`; calls that are whole are returned all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from k2core.chat.special_tokens import IM_END, TOOL_CALL_ARGUMENT_BEGIN, TOOL_CALL_BEGIN, TOOL_CALL_END
from k2core.storage.foreign import whole_escapes

SECTION_BEGIN = re.compile(r"<\|tool_calls?_section_begin\|>")
SECTION_END = re.compile(r"<\|tool_calls?_section_end\|>")
CALL_ID = re.compile(r"functions\.(?P<name>[^\s:]+):(?P<index>\d+)")


@dataclass(frozen=True)
class ToolCall:
    """One call; `arguments` is the text as written, which may be no JSON (`schema_errors` says)."""

    id: str
    name: str
    arguments: str

    def wire(self) -> dict[str, Any]:
        """In OpenAI's format."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class ParsedMessage:
    """What an assistant said and called, and what was wrong with the framing of its calls."""

    content: str
    tool_calls: list[ToolCall]
    errors: list[str] = field(default_factory=list)

    def wire(self) -> dict[str, Any]:
        """As an assistant message in OpenAI's format."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        return message | ({"tool_calls": [call.wire() for call in self.tool_calls]} if self.tool_calls else {})


def parse_assistant(text: str) -> ParsedMessage:
    """Parse what follows the generation prompt, up to the first `<|im_end|>`."""
    text = text.split(IM_END, 1)[0]
    content, *sections = SECTION_BEGIN.split(text)
    errors: list[str] = []
    if TOOL_CALL_BEGIN in content:
        errors.append("a tool call outside a tool-calls section")
        content, _, stray = content.partition(TOOL_CALL_BEGIN)
        sections.insert(0, TOOL_CALL_BEGIN + stray)
    calls: list[ToolCall] = []
    for section in sections:
        body, *after = SECTION_END.split(section, maxsplit=1)
        if not after:
            errors.append("the tool-calls section has no end")
        elif after[0].strip():
            errors.append("text after the tool-calls section")
        calls += _calls(body, errors)
    if sections and not calls:
        errors.append("a tool-calls section without a whole call")
    return ParsedMessage(content, calls, errors)


def schema_errors(tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the calls: unknown tool, arguments that are no JSON object or break the tool's schema.

    Args:
        tools: the declared tools, in OpenAI's wire format.
    """
    declared = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    errors = []
    for call in tool_calls:
        if call.name not in declared:
            errors.append(f"{call.name}: no such tool; declared are {', '.join(declared) or 'none'}")
            continue
        try:
            arguments = load_arguments(call.arguments)
            errors += argument_errors(call.name, arguments, declared[call.name])
        except ValueError as error:
            errors.append(f"{call.name}: {error}")
    return errors


def load_arguments(text: str) -> dict[str, Any]:
    """Arguments as an object; empty text is an empty object.

    Raises:
        ValueError: no JSON (also NaN and too deep nesting), or no object.
    """
    try:
        arguments = json.loads(whole_escapes(text.strip() or "{}"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"arguments are not JSON ({str(error)[:80]})") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments must be a JSON object, not {type(arguments).__name__}")
    return arguments


def argument_errors(name: str, arguments: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """Violations of the JSON Schema `parameters`, one short sentence each."""
    try:
        found = _validator(json.dumps(parameters)).iter_errors(arguments)
        return sorted(f"{name}: {error.message[:120]}" for error in found)
    except RecursionError:
        return [f"{name}: arguments are nested too deeply"]


@lru_cache(maxsize=4096)
def _validator(parameters: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(parameters))


def _calls(body: str, errors: list[str]) -> list[ToolCall]:
    before, *parts = body.split(TOOL_CALL_BEGIN)
    if before.strip():
        errors.append("text between the tool calls")
    calls = []
    for part in parts:
        whole, end, after = part.partition(TOOL_CALL_END)
        header, separator, arguments = whole.partition(TOOL_CALL_ARGUMENT_BEGIN)
        matched = CALL_ID.fullmatch(header.strip())
        if not end or not separator:
            errors.append(f"an incomplete tool call: {part[:60]!r}")
        elif not matched:
            errors.append(f"a tool call without an id functions.NAME:IDX: {header.strip()[:60]!r}")
        else:
            calls.append(ToolCall(header.strip(), matched["name"], arguments.strip()))
        if after.strip():
            errors.append("text between the tool calls")
    return calls


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
