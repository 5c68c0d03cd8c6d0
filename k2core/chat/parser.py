"""Assistant text back into content and tool calls; whatever a model writes, nothing here raises.

Accepted beyond the template's own output: spaces around control tokens (as in the official regex), the singular
`<|tool_call_section_begin|>` seen in the wild, names with `-` and `.`, several sections. What is cut off or out of
place is reported in `errors`; calls that are whole are returned all the same.

Other people's models write other ids. With their tools declared, an id may lack `functions.`, or be a mere number
where the tool is plain all the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from k2core.chat.special_tokens import IM_END, TOOL_CALL_ARGUMENT_BEGIN, TOOL_CALL_BEGIN, TOOL_CALL_END
from k2core.storage import parse_json

SECTION_BEGIN = re.compile(r"<\|tool_calls?_section_begin\|>")
SECTION_END = re.compile(r"<\|tool_calls?_section_end\|>")
_LONGEST_NUMBER = 300
_PATTERN_SECONDS = 1.0
CALL_ID = re.compile(r"functions\.(?P<name>[^\s:]+):(?P<index>\d+)")
_LENIENT_ID = re.compile(r"(?P<name>[^\s:]+):\d+")


@dataclass(frozen=True)
class ToolCall:
    """One call; `arguments` is the text as written, which may not be JSON (`schema_errors` says)."""

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


def parse_assistant(text: str, declared: Sequence[dict[str, Any]] | None = None) -> ParsedMessage:
    """Parse what follows the generation prompt, up to the first `<|im_end|>`.

    Args:
        declared: the tools of a model that is not ours, in OpenAI's wire format: ids as such models write them are read
            too. Without it an id is `functions.NAME:IDX`.
    """
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
        calls += _calls(body, errors, declared)
    if sections and not calls:
        errors.append("a tool-calls section without a whole call")
    return ParsedMessage(content, calls, errors)


def schema_errors(tool_calls: Sequence[ToolCall], tools: Sequence[dict[str, Any]]) -> list[str]:
    """What is wrong with the calls: unknown tool, arguments that are not a JSON object or break the tool's schema.

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
        ValueError: not JSON (NaN, numbers beyond a float and too deep nesting included), or not an object.
    """
    try:
        arguments = parse_json(
            text.strip() or "{}", parse_constant=_no_constant, parse_int=_integer, parse_float=_number
        )
    except ValueError as error:
        raise ValueError(f"arguments are not JSON ({str(error)[:80]})") from None
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments must be a JSON object, not {type(arguments).__name__}")
    return arguments


def argument_errors(name: str, arguments: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    """Violations of the JSON Schema `parameters`, one short sentence each; a schema that cannot be used is one."""
    try:
        found = _validator(json.dumps(parameters)).iter_errors(arguments)
        return sorted(f"{name}: {error.message[:120]}" for error in found)
    except RecursionError:
        return [f"{name}: arguments are nested too deeply"]
    except ValueError as error:
        return [f"{name}: its schema cannot be used ({error})"]


def schema_fault(parameters: Any) -> str:
    """Why no arguments can be held against the JSON Schema `parameters`; empty if they can."""
    try:
        _validator(json.dumps(parameters))
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


@lru_cache(maxsize=4096)
def _validator(parameters: str) -> Any:
    """What holds arguments against a schema; nothing outside the schema is ever fetched.

    Raises:
        ValueError: it is not a schema, or refers to something that it does not hold.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    schema = parse_json(parameters)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{error.json_path}: {error.message[:120]}") from None
    resource = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource("", resource).resolver_with_root(resource)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError):
            raise ValueError(f"it has nothing at $ref {reference[:80]!r}, and nothing else is fetched") from None
    return extend(Draft202012Validator, {"pattern": _fits_pattern})(schema, registry=Registry())


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        schema = [value for key, value in schema.items() if key not in ("enum", "const", "default", "examples")]
    for part in schema if isinstance(schema, list) else ():
        yield from _references(part)


def _fits_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """The keyword `pattern`, for as long as `_PATTERN_SECONDS`: a server's expression may need ages for a text."""
    import regex
    from jsonschema import ValidationError

    if not validator.is_type(instance, "string"):
        return
    try:
        if regex.search(pattern, instance, timeout=_PATTERN_SECONDS) is None:
            yield ValidationError(f"{instance!r} does not match {pattern!r}")
    except (TimeoutError, regex.error) as error:
        yield ValidationError(f"whether it matches {pattern!r} cannot be told ({error})")


def called_tool(header: str, declared: Sequence[dict[str, Any]] | None = None) -> str | None:
    """The tool that a call's stripped id names; None if it names none."""
    matched = CALL_ID.fullmatch(header) or (declared is not None and _LENIENT_ID.fullmatch(header))
    if matched:
        return matched["name"]
    return declared[0]["function"]["name"] if declared and len(declared) == 1 and is_counter(header) else None


def is_counter(header: str) -> bool:
    """Whether a call's stripped id is a mere number."""
    return header.isascii() and header.isdigit()


def fitting_tool(arguments: str, declared: Sequence[dict[str, Any]]) -> str | None:
    """The only tool that `arguments` fit: all of them are its properties, and they meet its schema. Else None."""
    try:
        given = load_arguments(arguments)
    except ValueError:
        return None
    fit = []
    for function in (tool["function"] for tool in declared):
        parameters = function.get("parameters") or {}
        if given.keys() <= (parameters.get("properties") or {}).keys():
            fit += [] if argument_errors("", given, parameters) else [function["name"]]
    return fit[0] if len(fit) == 1 else None


def _calls(body: str, errors: list[str], declared: Sequence[dict[str, Any]] | None) -> list[ToolCall]:
    before, *parts = body.split(TOOL_CALL_BEGIN)
    if before.strip():
        errors.append("text between the tool calls")
    calls = []
    for part in parts:
        whole, end, after = part.partition(TOOL_CALL_END)
        header, separator, arguments = whole.partition(TOOL_CALL_ARGUMENT_BEGIN)
        name = called_tool(header.strip(), declared)
        if name is None and declared and is_counter(header.strip()):
            name = fitting_tool(arguments, declared)
        if not end or not separator:
            errors.append(f"an incomplete tool call: {part[:60]!r}")
        elif name is None:
            errors.append(f"a tool call without an id functions.NAME:IDX: {header.strip()[:60]!r}")
        else:
            calls.append(ToolCall(header.strip(), name, arguments.strip()))
        if after.strip():
            errors.append("text between the tool calls")
    return calls


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{digits[:20]} is beyond any float")
    return value
