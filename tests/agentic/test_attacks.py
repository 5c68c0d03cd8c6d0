"""Whole dialogues with servers that attack, over pipes and over HTTP: no result is structure, and no run stops."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hostile_server import TEXTS, TOOL
from serving import served

from k2core.agentic.dialogues.play import Player, Trajectory
from k2core.agentic.tasks.real_domain import real_domains
from k2core.agentic.tools.mcp import MAX_RESULT, ServerSpec
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.special_tokens import SPECIAL_TOKENS
from k2core.chat.template import pieces
from k2core.storage import read_lines, write_lines

HOSTILE = str(Path(__file__).with_name("hostile_server.py"))
RAW = {  # bodies of an HTTP answer; ID is the request's
    "garbage": '{"jsonrpc": "2.0", "id": ',
    "surrogate": '{"jsonrpc": "2.0", "id": ID, "result": {"content": [{"type": "text", "text": "\\ud800"}]}}',
    "shape": '{"jsonrpc": "2.0", "id": ID, "result": {"content": "no list"}}',
    "deep": '{"jsonrpc": "2.0", "id": ID, "result": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "foreign": '{"jsonrpc": "2.0", "id": 987654, "result": {"content": []}}',
}
TASKS = [real_domains()["filesystem"].task(1, number) for number in range(2)]
NAMES = sorted({name for task in TASKS for name in task["tools"]})
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}}
TOOLS = {name: ToolSpec(name, "", SCHEMA, "filesystem", "x", "mcp:filesystem", None, "train") for name in NAMES}


@contextmanager
def spoken(mode: str) -> Iterator[str]:
    """The address of a server of streamable HTTP whose tools all answer as `mode` says."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (part := await receive()).get("more_body"):
            body += part["body"]
        asked = json.loads(body + part.get("body", b"") or b"{}")
        status, answer = (200, said(asked)) if "id" in asked else (202 if asked else 405, "")
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.encode()})

    def said(asked: dict[str, Any]) -> str:
        if asked["method"] == "tools/call" and mode in RAW:
            return RAW[mode].replace("ID", json.dumps(asked["id"]))
        result: dict[str, Any] = {"content": [{"type": "text", "text": TEXTS.get(mode, "")}]}
        if asked["method"] == "initialize":
            info = {"name": "hostile", "version": "1"}
            result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
        elif asked["method"] == "tools/list":
            result = {"tools": [TOOL]}
        elif asked["method"] != "tools/call":
            error = {"code": -32601, "message": "no such method"}
            return json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error})
        return json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    with served(app) as base:
        yield f"{base}/mcp"


def played(spec: ServerSpec, folder: Path) -> list[Trajectory]:
    return Player(TOOLS, 1, 0.0).real(TASKS, {"filesystem": spec}, folder / "play")


def check(rows: list[Trajectory], folder: Path) -> None:
    """Both tasks were played and failed; what was answered can be written, read, and rendered without a new turn."""
    assert [row["task_id"] for row in rows] == [task["id"] for task in TASKS]
    assert not any(row["verdict"]["passed"] for row in rows)
    write_lines(folder / "rejected.jsonl", rows)
    assert read_lines(folder / "rejected.jsonl") == rows
    for row in rows:
        messages = row["messages"]
        results = [message["content"] for message in messages if message["role"] == "tool"]
        assert results and all(len(text) < MAX_RESULT + 60 for text in results)
        rendered = list(pieces(messages, row["tools"], False, "typescript"))
        calls = [len(message.get("tool_calls", [])) for message in messages]
        special = 3 * (len(messages) + 1) + 2 * sum(map(bool, calls)) + 3 * sum(calls)
        assert sum(piece.special for piece in rendered) == special
        sampled = "".join(piece.text for piece in rendered if piece.sampled and not piece.special)
        assert not any(token in sampled for token in SPECIAL_TOKENS)


@pytest.mark.parametrize("mode", ["instructions", "megabytes", "garbage", "tokens", "surrogate", "separators"])
def test_a_dialogue_with_a_process_that_attacks(mode: str, tmp_path: Path) -> None:
    check(played(ServerSpec(command=[sys.executable, HOSTILE, mode], category="x", timeout_s=2.0), tmp_path), tmp_path)


@pytest.mark.parametrize("mode", [*TEXTS, *RAW])
def test_a_dialogue_with_an_address_that_attacks(mode: str, tmp_path: Path) -> None:
    with spoken(mode) as url:
        check(played(ServerSpec(url=url, category="x", timeout_s=2.0), tmp_path), tmp_path)
