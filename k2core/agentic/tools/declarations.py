"""Declarations of MCP tools that others wrote, `{name, description, inputSchema}`, as tools of ours.

They come from a running server or from a folder of JSON files, such as a registry's dump. Nobody has reviewed them:
what cannot be put into a prompt is refused with a reason. A tool of a folder has no server and no operation, so it is
only declared: a task may offer it beside the tools that it needs, and a call of it gives an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.declared import parameters_fault
from k2core.chat.special_tokens import SPECIAL_TOKENS
from k2core.stage import StageError
from k2core.storage.foreign import one_line

MAX_DESCRIPTION = 2000
MAX_SCHEMA = 8000
"""Characters of a schema as JSON."""
MAX_DEPTH = 12
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
CONTROL = re.compile(r"<\|[a-z_]*\|>|" + "|".join(map(re.escape, SPECIAL_TOKENS)))
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u2028\u2029]")


@dataclass(frozen=True)
class Refused:
    """A declaration that is not used, with the file or server it came from, and why."""

    source: str
    reason: str
    declaration: Any

    def row(self) -> dict[str, Any]:
        """For `refused.jsonl`; the declaration is cut."""
        return {"source": self.source, "reason": self.reason, "declaration": json.dumps(self.declaration)[:1000]}


@dataclass
class Declared:
    """The tools of a folder, what was refused, and how many were dropped as duplicates, by name and by schema."""

    tools: list[ToolSpec] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    duplicates: Counter[str] = field(default_factory=Counter)


def declared_in(folder: Path, taken: Iterable[str]) -> Declared:
    """The tools that the JSON files in `folder` declare, in alphabetical order; the first of two equal ones stays.

    Two are equal if they have the same name, or the same description and schema.

    Args:
        taken: names that other tools have.

    Raises:
        StageError: a file that cannot be read.
    """
    found, names, seen = Declared(), set(taken), set()
    for path in sorted(folder.rglob("*.json")):
        source = str(path.relative_to(folder))
        for row in _declarations(_content(path, found, source)):
            try:
                tool = declared_tool(row, f"declared:{path.stem}", "declared", f"declared:{source}")
            except ValueError as error:
                found.refused.append(Refused(source, str(error), row))
                continue
            content = json.dumps([tool.description, tool.parameters], sort_keys=True)
            if tool.name in names:
                found.duplicates["name"] += 1
            elif content in seen:
                found.duplicates["schema"] += 1
            else:
                found.tools.append(tool)
                names.add(tool.name)
                seen.add(content)
    return found


def declared_tool(row: Any, domain: str, category: str, origin: str) -> ToolSpec:
    """One declaration as a tool; titles, which repeat the names, are left out of its schema.

    Raises:
        ValueError: it cannot be declared to a model; says why.
    """
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    name, text = row.get("name"), row.get("description") or ""
    schema = row.get("inputSchema", row.get("input_schema", row.get("parameters")))
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("name: not 1 to 64 letters, digits, _, . or -, a letter or _ first")
    if not isinstance(text, str) or len(text) > MAX_DESCRIPTION:
        raise ValueError(f"description: no text of at most {MAX_DESCRIPTION} characters")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ValueError("inputSchema: no JSON Schema of type object")
    schema = untitled(schema)
    _check_schema(schema)
    written = json.dumps([text, schema], ensure_ascii=False)
    if CONTROL.search(written):
        raise ValueError("control tokens")
    if UNPRINTABLE.search(text) or any(UNPRINTABLE.search(part) for part in _strings(schema)):
        raise ValueError("characters that cannot be printed")
    return ToolSpec(name, " ".join(text.split()), schema, domain, category, origin, None, "train")


def untitled(schema: Any) -> Any:
    """A schema without pydantic's titles."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if key != "title" or not isinstance(value, str)}
        return {key: untitled(value) for key, value in kept.items()}
    return [untitled(item) for item in schema] if isinstance(schema, list) else schema


def _check_schema(schema: dict[str, Any]) -> None:
    if len(json.dumps(schema)) > MAX_SCHEMA:
        raise ValueError(f"inputSchema: more than {MAX_SCHEMA} characters")
    if _depth(schema) > MAX_DEPTH:
        raise ValueError(f"inputSchema: nested deeper than {MAX_DEPTH}")
    if any(not reference.startswith("#") for reference in _references(schema)):
        raise ValueError("inputSchema: a $ref to another document")
    if fault := parameters_fault(schema):
        raise ValueError(f"inputSchema: {one_line(fault)}")
    if not isinstance(schema.get("properties", {}), dict):
        raise ValueError("inputSchema: properties are no object")


def _content(path: Path, found: Declared, source: str) -> Any:
    """The JSON of a file; a file that is not JSON is refused as a whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror}); mend the folder tools.declarations") from None
    except (ValueError, RecursionError) as error:
        found.refused.append(Refused(source, f"not JSON: {one_line(str(error))}", None))
        return []


def _declarations(content: Any) -> Iterator[Any]:
    """The declarations in a file: a list, one, or a mapping with `tools` (a server's answer to `tools/list`)."""
    if isinstance(content, list):
        for item in content:
            yield from _declarations(item) if isinstance(item, dict) and "tools" in item else (item,)
    elif isinstance(content, dict) and isinstance(content.get("result", content), dict):
        inner = content.get("result", content)
        yield from _declarations(inner["tools"]) if isinstance(inner.get("tools"), list) else (inner,)
    else:
        yield content


def _depth(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("$ref", "$dynamicRef") and isinstance(item, str):
                yield item
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
