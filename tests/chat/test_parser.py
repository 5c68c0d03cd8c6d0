"""The parser: agrees with K2-Vendor-Verifier's regular expression on good text and survives everything else."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.chat.parser import (
    ToolCall,
    argument_errors,
    load_arguments,
    parse_assistant,
    schema_errors,
    schema_fault,
)
from k2core.chat.special_tokens import SPECIAL_TOKENS

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
SECTION = re.compile(re.escape(BEGIN) + "(.*?)" + re.escape(END), re.DOTALL)
OFFICIAL = re.compile(
    r"<\|tool_call_begin\|>\s*(?P<tool_call_id>[\w\.]+:\d+)\s*<\|tool_call_argument_begin\|>"
    r"\s*(?P<function_arguments>.*?)\s*<\|tool_call_end\|>", re.DOTALL,
)  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {
        "type": "object", "required": ["n"],
        "properties": {"n": {"type": "integer"}, "kind": {"type": "string", "enum": ["a", "b"]}}}}},
]  # fmt: skip


def one(name: str, arguments: str, index: int = 0) -> str:
    return f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


names = st.from_regex(r"[A-Za-z_]\w{0,9}", fullmatch=True).filter(str.isascii)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@settings(deadline=None)
@given(st.lists(st.tuples(names, st.dictionaries(st.text(max_size=5), values, max_size=3)), min_size=1, max_size=3))
def test_agrees_with_the_official_expression(made: list[tuple[str, dict]]) -> None:
    text = "Hm. " + BEGIN + "".join(one(n, json.dumps(a), i) for i, (n, a) in enumerate(made)) + END
    if any("<|" in json.dumps(made) for _ in made):
        return
    official = [m.groups() for m in OFFICIAL.finditer(SECTION.findall(text)[0])]
    parsed = parse_assistant(text + "<|im_end|>")
    assert [(call.id, call.arguments) for call in parsed.tool_calls] == official
    assert [call.name for call in parsed.tool_calls] == [name for name, _ in made]
    assert parsed.content == "Hm. "
    assert not parsed.errors


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|tool_call_section_begin|>", "functions.add:0", '{"n": 1}', "{"])
                | st.text(max_size=5), max_size=12))  # fmt: skip
def test_never_raises(parts: list[str]) -> None:
    parsed = parse_assistant("".join(parts))
    schema_errors(parsed.tool_calls, TOOLS)


@pytest.mark.parametrize(
    "text, count, error",
    [
        (BEGIN + one("add", '{"n": 1}') + END, 1, None),
        ("<|tool_call_section_begin|>" + one("add", "{}") + "<|tool_call_section_end|>", 1, None),
        (BEGIN + one("my-tool.v2", '{"a": {"b": {}}}') + END, 1, None),
        (BEGIN + " " + one("add", " {} ") + "\n" + END + " ", 1, None),
        (BEGIN + one("add", "{}"), 1, "no end"),
        (BEGIN + one("add", "{}").removesuffix("<|tool_call_end|>"), 0, "incomplete"),
        (BEGIN + END, 0, "without a whole call"),
        (BEGIN + one("add", "{}") + END + "and then", 1, "text after"),
        (BEGIN + "well," + one("add", "{}") + END, 1, "text between"),
        (one("add", "{}"), 1, "outside"),
        (BEGIN + one("add", "{}").replace("functions.add:0", "add") + END, 0, "without an id"),
        ("Just words", 0, None),
    ],
)
def test_framing(text: str, count: int, error: str | None) -> None:
    parsed = parse_assistant(text)
    assert len(parsed.tool_calls) == count
    assert any(error in e for e in parsed.errors) if error else not parsed.errors


def test_names_with_dots_and_dashes_are_kept() -> None:
    (call,) = parse_assistant(BEGIN + one("my-tool.v2", "{}", 7) + END).tool_calls
    assert (call.name, call.id) == ("my-tool.v2", "functions.my-tool.v2:7")


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("add", '{"n": 1}', None),
        ("add", '{"n": 1, "kind": "a"}', None),
        ("sub", "{}", "no such tool"),
        ("add", "{n: 1}", "not JSON"),
        ("add", '{"n": NaN}', "not JSON"),
        ("add", "[" * 100_000, "not JSON"),
        ("add", "[1]", "must be a JSON object"),
        ("add", "", "'n' is a required property"),
        ("add", '{"n": "1"}', "not of type 'integer'"),
        ("add", '{"n": 1, "kind": "c"}', "not one of"),
    ],
)
def test_schema_errors(name: str, arguments: str, message: str | None) -> None:
    errors = schema_errors([ToolCall(f"functions.{name}:0", name, arguments)], TOOLS)
    assert any(message in error for error in errors) if message else not errors


def test_no_arguments_are_an_empty_object() -> None:
    assert load_arguments(" ") == {}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"n": {"$ref": "#/$defs/none"}}}, "nothing at $ref '#/$defs/none'"),
        ({"properties": {"n": {"$ref": "http://127.0.0.1:9/schema.json"}}}, "nothing else is fetched"),
        ({"properties": {"n": {"$ref": "file:///etc/passwd"}}}, "nothing else is fetched"),
        ({"type": "objekt"}, "'objekt' is not valid"),
        ({"properties": {"n": {"type": 3}}}, "$.properties.n.type"),
        ({"properties": {"n": {"pattern": "("}}}, "is not a 'regex'"),
        ({"properties": {"n": {"minLength": "a"}}}, "'a' is not of type 'integer'"),
        ({"properties": []}, "is not of type 'object'"),
        ({"required": 5}, "5 is not of type 'array'"),
        ([], "is not of type"),
    ],
)
def test_a_schema_that_cannot_be_used_is_a_sentence(schema: object, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert why in schema_fault(schema)
    (error,) = argument_errors("f", {"n": "x"}, schema)  # type: ignore[arg-type]
    assert error.startswith("f: its schema cannot be used (") and why in error and "\n" not in error


def test_what_a_schema_holds_itself_may_be_referred_to() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"n": {"$ref": "#/$defs/n"}, "r": {"$ref": "#"}}}
    assert schema_fault(schema) == "" and argument_errors("f", {"n": 1, "r": {"n": 2}}, schema) == []
    assert len(argument_errors("f", {"n": "x", "r": {"n": "y"}}, schema)) == 2
    assert schema_fault({"enum": [{"$ref": "http://data.example/"}]}) == ""
    endless = {"properties": {"a": {"$ref": "#"}}, "allOf": [{"$ref": "#"}]}
    assert argument_errors("f", {"a": {}}, endless) == ["f: arguments are nested too deeply"]


def test_an_expression_that_needs_ages_is_given_up() -> None:
    schema = {"properties": {"a": {"pattern": "^(a|aa)+$"}, "b": {"pattern": "^b+$"}}}
    assert argument_errors("f", {"a": "aaa", "b": "bb"}, schema) == []
    assert argument_errors("f", {"b": "c"}, schema) == ["f: 'c' does not match '^b+$'"]
    started = time.monotonic()
    (error,) = argument_errors("f", {"a": "a" * 60 + "!"}, schema)
    assert time.monotonic() - started < 20 and error.startswith("f: ")


@pytest.mark.parametrize("value", ["1e999", "-1e999", "9" * 5000, "1" + "0" * 400, "NaN", "[" * 100_000])
def test_numbers_beyond_a_float_are_no_arguments(value: str) -> None:
    """The simulator would go on with them, and what it writes would be no JSON."""
    with pytest.raises(ValueError, match="arguments are not JSON"):
        load_arguments(f'{{"n": {value}}}')
