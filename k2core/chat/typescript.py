"""Tool declarations as TypeScript: namespace `functions`, one commented type per tool (K2 Appendix B; K2.5's form).

About half as many tokens as the JSON form. What TypeScript cannot say (patterns, ranges, formats) is left out: it
still counts when a call is checked against the schema. `$ref` becomes `any`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]
SCALARS = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def declare(tools: Sequence[dict[str, Any]]) -> str:
    """The declaration of `tools` (OpenAI wire format), deterministic, in the order given."""
    lines = ["namespace functions {"]
    for tool in tools:
        function = tool["function"]
        lines += _comment(function.get("description"))
        arguments = type_of(function.get("parameters") or {"type": "object", "properties": {}})
        lines.append(f"type {function['name']} = (_: {arguments}) => any;")
    return "\n".join([*lines, "}"])


def type_of(schema: Any) -> str:
    """The TypeScript type of a JSON Schema; `any` where there is no equivalent."""
    if not isinstance(schema, dict):
        return "any"
    if "const" in schema:
        return _literal(schema["const"])
    if "enum" in schema:
        return " | ".join(_literal(value) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(dict.fromkeys(type_of(option) for option in schema[union]))
    kind = schema.get("type")
    if isinstance(kind, list):
        return " | ".join(type_of({**schema, "type": option}) for option in kind)
    if kind == "array":
        items = type_of(schema.get("items", {}))
        return f"({items})[]" if " | " in items else f"{items}[]"
    if kind == "object" or "properties" in schema:
        return _object(schema)
    return SCALARS.get(kind, "any") if isinstance(kind, str) else "any"


def _object(schema: Schema) -> str:
    """On one line, unless a property has a comment."""
    properties, required = schema.get("properties") or {}, set(schema.get("required") or ())
    if not properties:
        return "{}"
    fields = [f"{name}{'' if name in required else '?'}: {type_of(value)}" for name, value in properties.items()]
    comments = [_comment(value.get("description")) if isinstance(value, dict) else [] for value in properties.values()]
    if not any(comments):
        return "{" + ", ".join(fields) + "}"
    lines = [line for comment, field in zip(comments, fields, strict=True) for line in (*comment, field + ",")]
    return "\n".join(["{", *lines, "}"])


def _comment(text: str | None) -> list[str]:
    return [f"// {' '.join(text.split())}"] if text and text.strip() else []


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
