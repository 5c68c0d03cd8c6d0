"""Tools as TypeScript: golden declarations, and much shorter than JSON."""

from __future__ import annotations

import json

import pytest

from k2core.chat.typescript import declare, type_of


def test_compact_declaration() -> None:
    tool = {"type": "function", "function": {
        "name": "add_event", "description": "Add an\n event", "parameters": {
            "type": "object", "required": ["title", "day"],
            "properties": {
                "title": {"type": "string"},
                           "day": {"enum": ["Mon", "Tue"]}, "guests": {"type": "integer"}}}}}  # fmt: skip
    text = declare([tool, {"type": "function", "function": {"name": "ping"}}])
    assert text == (
        "namespace functions {\n"
        "// Add an event\n"
        'type add_event = (_: {title: string, day: "Mon" | "Tue", guests?: number}) => any;\n'
        "type ping = (_: {}) => any;\n"
        "}"
    )
    assert len(text) < 0.6 * len(json.dumps([tool]))


def test_described_properties_stand_on_lines_with_their_comments() -> None:
    properties = {"a": {"type": "string", "description": "A  name"}, "b": {}}
    schema = {"type": "object", "required": ["a"], "properties": properties}
    assert type_of(schema) == "{\n// A name\na: string,\nb?: any,\n}"


@pytest.mark.parametrize(
    "schema, expected",
    [
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array", "items": {"enum": ["a", 1]}}, '("a" | 1)[]'),
        ({"type": "array"}, "any[]"),
        ({"const": "x"}, '"x"'),
        ({"type": "object"}, "{}"),
        ({"type": "object", "properties": {"o": {"type": "object", "properties": {"p": {"type": "boolean"}}}}},
         "{o?: {p?: boolean}}"),
        ({"$ref": "#/x"}, "any"),
        (True, "any"),
    ],
)  # fmt: skip
def test_types(schema: object, expected: str) -> None:
    assert type_of(schema) == expected
