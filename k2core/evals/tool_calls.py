"""How well-formed and how right tool calls are.

Schema accuracy is K2-Vendor-Verifier's: of the responses that call tools, the share in which every call names a
declared tool and has JSON arguments that fit its schema; one bad call fails the response. It is undefined for a model
that never calls, so the share of responses with valid calls where a call is due is reported beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from k2core.chat.parser import load_arguments, parse_assistant, schema_errors
from k2core.chat.special_tokens import TOOL_CALL_BEGIN, TOOL_CALLS_SECTION_BEGIN


@dataclass(frozen=True)
class CallCheck:
    """One response: is a call due, does it try to call, are its calls valid, are they exactly the expected ones?"""

    due: bool
    called: bool
    valid: bool
    exact: bool


def check_calls(text: str, tools: list[dict[str, Any]], gold_calls: Sequence[dict[str, Any]]) -> CallCheck:
    """Judge the calls in a response.

    Args:
        text: the response with special tokens.
        tools: declared tools, as on the wire.
        gold_calls: what is expected, in any order: `{"name", "arguments": object}`.
    """
    parsed = parse_assistant(text)
    called = bool(parsed.tool_calls) or TOOL_CALL_BEGIN in text or TOOL_CALLS_SECTION_BEGIN in text
    valid = bool(parsed.tool_calls) and not parsed.errors and not schema_errors(parsed.tool_calls, tools)
    expected = sorted(_canonical(call["name"], call["arguments"]) for call in gold_calls)
    exact = valid and expected == sorted(
        _canonical(call.name, load_arguments(call.arguments)) for call in parsed.tool_calls
    )
    return CallCheck(bool(gold_calls), called, valid, exact)


def _canonical(name: str, arguments: dict[str, Any]) -> str:
    return json.dumps([name, arguments], sort_keys=True)
