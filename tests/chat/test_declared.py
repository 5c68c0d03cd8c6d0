"""Schemas that nothing meets are told from those that something meets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from k2core.chat.declared import parameters_fault


def needs(a: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": a}, "required": ["a"], **more}


TREE = {"type": "object", "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}}}


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        (needs({"$ref": "#/properties/a"}), "$.properties.a: no value meets it, because it needs itself"),
        (needs({"$ref": "#"}), "$: no value meets it, because it needs itself"),
        (needs({"$ref": "#/$defs/x"}, **{"$defs": {"x": needs({"$ref": "#/$defs/y"}), "y": {"$ref": "#/$defs/x"}}}),
         "$.$defs.x: no value meets it, because it needs itself"),
        (needs({"$ref": "#/$defs/n"}, **{"$defs": {"n": False}}), "$.$defs.n: no value meets it, because it is false"),
        (needs(False), "$.properties.a: no value meets it, because it is false"),
        (needs({"enum": []}), "$.properties.a: no value meets it, because its enum lists none that fits"),
        (needs({"type": "string", "enum": [1, None]}), "$.properties.a: no value meets it, because its enum"),
        (needs({"type": "string", "const": 1}), "$.properties.a: no value meets it, because its const does not fit"),
        (needs({"type": "integer", "minimum": 5, "maximum": 2}), "$.properties.a: no value meets it, because its min"),
        (needs({"type": "integer", "exclusiveMinimum": 1, "maximum": 1.5}), "$.properties.a: no value meets it"),
        (needs({"type": "string", "minLength": 5, "maxLength": 2}), "minLength is above maxLength"),
        (needs({"type": "array", "items": needs({"enum": []}), "minItems": 1}), "$.properties.a.items.properties.a: "),
        (needs({"anyOf": [{"enum": []}, False]}), "$.properties.a.anyOf[0]: "),
        (needs({"allOf": [{"type": "string"}, {"type": "integer"}]}), "$: no value meets it, because "),
        ({"required": ["b"], "additionalProperties": False}, "$.required: no value meets it, because 'b' is required"),
        ({"properties": {"n": {"type": 3}}}, "$.properties.n.type: "),
    ],
)  # fmt: skip
def test_what_nothing_meets_is_named_with_its_place(parameters: dict[str, Any], fault: str) -> None:
    assert fault in parameters_fault(parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"required": ["a"]}, needs(True), needs({}), needs({"type": ["string", "null"], "enum": [1, None]}),
        {"properties": {"a": False, "b": {"enum": []}}},
        needs({"$ref": "#/$defs/tree"}, **{"$defs": {"tree": TREE}}),
        needs({"type": "array", "items": {"$ref": "#/properties/a"}}),
        needs({"anyOf": [{"$ref": "#/properties/a"}, {"type": "null"}]}),
        needs({"type": "array", "items": False}), needs({"type": "integer", "minimum": 2, "maximum": 2}),
        needs({"type": ["integer", "null"], "minimum": 5, "maximum": 2}), needs({"pattern": "^a(?=b)"}),
        {"required": ["x1"], "patternProperties": {"^x": {}}, "additionalProperties": False},
    ],
)  # fmt: skip
def test_what_something_meets_is_none_of_them(parameters: dict[str, Any]) -> None:
    assert parameters_fault(parameters) == ""


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text("ab", max_size=2)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=4,
)
BOUNDS = st.sampled_from([
    {}, {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 1}, {"type": ["array", "null"], "minItems": 1},
    {"type": "object", "required": ["x"]}, {"enum": []}, {"enum": ["a", 1, None]}, {"const": "b"}, False, True,
    {"$ref": "#"}, {"$ref": "#/properties/a"}, {"maxLength": 1}, {"exclusiveMaximum": 0},
    {"minItems": 2, "maxItems": 1},
])  # fmt: skip
SCHEMAS = st.recursive(
    BOUNDS,
    lambda inner: st.one_of(
        st.builds(lambda x, closed: {"properties": {"x": x}, "required": ["x"], "additionalProperties": closed},
                  inner, inner),
        st.builds(lambda items: {"items": items, "minItems": 1, "type": "array"}, inner),
        st.builds(lambda word, parts: {word: parts}, st.sampled_from(["anyOf", "allOf"]),
                  st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(schema=SCHEMAS, value=VALUES)
def test_what_a_value_meets_is_never_refused(schema: Any, value: Any) -> None:
    parameters = needs(schema)
    try:
        met = Draft202012Validator(parameters).is_valid({"a": value})
    except RecursionError:  # a schema that refers to itself without end
        return
    assert not met or parameters_fault(parameters) == ""
