"""A folder of tool declarations that strangers wrote: what becomes a tool, what is dropped, what is refused and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.declarations import MAX_DEPTH, declared_in, declared_tool
from k2core.agentic.tools.evolve import plain_tools
from k2core.agentic.tools.simulator import NOT_RUNNING, Simulator
from k2core.chat.parser import ToolCall


def row(name: str = "get_quote", **changes: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"symbol": {"type": "string", "title": "Symbol"}}, "title": "Args"}
    return {"name": name, "description": "Price  of a\nstock.", "inputSchema": schema, **changes}


def test_a_folder_becomes_tools(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.json").write_text(json.dumps([row(), row("get_quote"), row("copy_of_it"), row("get_event")]))
    (tmp_path / "b" / "dump.json").write_text(
        json.dumps({"result": {"tools": [row("other", description="Another."), {"name": "no schema"}]}})
    )
    (tmp_path / "one.json").write_text(json.dumps(row("third", description="The third.")))
    (tmp_path / "torn.json").write_text('[{"name": ')
    (tmp_path / "README.md").write_text("no declarations")
    found = declared_in(tmp_path, ["get_event"])
    assert [(tool.name, tool.origin) for tool in found.tools] == [
        ("get_quote", "declared:a.json"), ("other", "declared:b/dump.json"), ("third", "declared:one.json"),
    ]  # fmt: skip
    assert found.duplicates == {"name": 2, "schema": 1}
    assert [(refused.source, refused.reason[:8]) for refused in found.refused] == [
        ("b/dump.json", "name: no"), ("torn.json", "not JSON"),
    ]  # fmt: skip
    tool = found.tools[0]
    assert tool.description == "Price of a stock." and tool.operation is None
    assert tool.parameters == {"type": "object", "properties": {"symbol": {"type": "string"}}}
    assert json.dumps(found.refused[0].row())


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    ("declaration", "reason"),
    [
        ("a string", "no JSON object"),
        (row(name="two words"), "name"),
        (row(name="a" * 65), "name"),
        (row(name=None), "name"),
        (row(description="x" * 2001), "description"),
        (row(description=["x"]), "description"),
        (row(description="Then <|im_end|>"), "control tokens"),
        (row(description="half \ud800"), "cannot be printed"),
        (row(description="a\u2028b"), "cannot be printed"),
        (row(inputSchema=None), "no JSON Schema of type object"),
        (row(inputSchema={"type": "string"}), "no JSON Schema of type object"),
        (row(inputSchema={"type": "object", "properties": {"a": {"type": "strnig"}}}), "strnig"),
        (
            row(inputSchema={"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/properties/a"}}}),
            "inputSchema: $.properties.a: no value meets it, because it needs itself",
        ),
        (
            row(inputSchema={"type": "object", "required": ["a"], "properties": {"a": {"enum": []}}}),
            "no value meets it",
        ),
        (row(inputSchema={"type": "object", "properties": {"[EOS]": {}}}), "control tokens"),
        (row(inputSchema={"type": "object", "properties": {"a": {"enum": ["<|tool_call_begin|>"]}}}), "control tokens"),
        (row(inputSchema={"type": "object", "properties": {"a": {"$ref": "http://evil/x.json"}}}), "another document"),
        (row(inputSchema={"type": "object", "description": "x" * 9000}), "8000 characters"),
        (row(inputSchema=deep(MAX_DEPTH)), "nested deeper"),
    ],
)
def test_what_cannot_stand_in_a_prompt_is_refused(declaration: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        declared_tool(declaration, "d", "c", "declared:x")


def test_a_declared_tool_stands_beside_those_that_a_task_needs_and_does_nothing() -> None:
    tools = {tool.name: tool for domain in domains().values() for tool in plain_tools(domain)}
    foreign = declared_tool(row(), "declared:a", "declared", "declared:a.json")
    speaks_of_it = declared_tool(
        row("drop", description="Delete an event."), "declared:a", "declared", "declared:a.json"
    )
    both = tools | {foreign.name: foreign, speaks_of_it.name: speaks_of_it}
    mix = {"single": 1.0, "none": 1.0}
    offered = [TaskMaker(both, mix, 1, 0.5).task("train", i) for i in range(120)]
    held = [task for task in offered if "get_quote" in task["tools"]]
    assert 10 < len(held) < 60 and {task["kind"] for task in held} == {"single"}
    assert not any("drop" in task["tools"] for task in offered if task["domain"] == "calendar")
    assert TaskMaker(both, mix, 1, 0.0).task("train", 3) == TaskMaker(tools, mix, 1).task("train", 3)
    simulator = Simulator({"get_quote": foreign}, {})
    assert simulator.execute(ToolCall("functions.get_quote:0", "get_quote", "{}")).result == {"error": NOT_RUNNING}
