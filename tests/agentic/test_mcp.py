"""MCP servers by command and by address, and what a hostile one can do: a sentence, or a bounded result."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import served

from k2core.agentic.tools import address, child
from k2core.agentic.tools.mcp import MAX_RESULT, McpServer, ServerFault, ServerSpec, serve
from k2core.chat.special_tokens import SPECIAL_TOKENS
from k2core.chat.template import pieces
from k2core.recipe import RecipeError, validate
from k2core.stage import StageError
from k2core.storage import read_lines, write_lines

HOSTILE = str(Path(__file__).with_name("hostile_server.py"))


@contextmanager
def hostile(mode: str, folder: Path, timeout_s: float = 60.0) -> Iterator[McpServer]:
    spec = ServerSpec(command=[sys.executable, HOSTILE, mode], category="x", timeout_s=timeout_s)
    with serve("bad", spec, folder) as server:
        yield server


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"category": "x"}, "give one of command, url and sse"),
        ({"category": "x", "command": ["a"], "url": "http://h/mcp"}, "give one of command, url and sse"),
        ({"category": "x", "url": "localhost:80"}, "servers.a.url = 'localhost:80'"),
        ({"category": "x", "comand": ["a"]}, "did you mean command"),
        ({"category": "x", "command": "run me"}, "servers.a.command = 'run me'"),
        ({"category": "x", "command": ["a"], "timeout_s": 0.0}, "servers.a.timeout_s = 0.0"),
        ({"command": ["a"]}, "servers.a.category: missing"),
    ],
)
def test_a_server_in_the_recipe_is_checked(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=r"servers\.a") as caught:
        validate(ServerSpec, entry, "servers.a")
    assert message in str(caught.value)


def test_a_command_that_does_not_start_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"tools\.servers\.bad: .* does not start .*no database configured"):
        with hostile("absent", tmp_path):
            pass
    with pytest.raises(StageError, match=r"`no-such-program -x` does not start .*No such file"):
        with serve("bad", ServerSpec(command=["no-such-program", "-x"], category="x"), tmp_path):
            pass
    with pytest.raises(StageError, match="no environment variable NO_SUCH_VARIABLE; export it"):
        with serve("bad", ServerSpec(command=["a"], environment=["NO_SUCH_VARIABLE"], category="x"), tmp_path):
            pass
    with pytest.raises(StageError, match=r"`http://127\.0\.0\.1:9/mcp` does not start"):
        with serve("bad", ServerSpec(url="http://127.0.0.1:9/mcp", category="x", timeout_s=20.0), tmp_path):
            pass


@pytest.mark.parametrize(
    ("mode", "timeout_s", "message"),
    [
        ("dies", 60.0, r"closed.* \[its last line: out of memory\]"),
        ("silent", 2.0, "timed out"),
        ("garbage", 2.0, "timed out"),
        ("surrogate", 2.0, "timed out"),
        ("shape", 60.0, "an answer that cannot be read"),
    ],
)
def test_a_call_without_an_answer_is_a_sentence(tmp_path: Path, mode: str, timeout_s: float, message: str) -> None:
    with hostile(mode, tmp_path, timeout_s) as server:
        with pytest.raises(ServerFault, match=f"(?i)the MCP server bad failed at the call of look: .*{message}"):
            server.call("look", {})
        assert server.broken


def test_what_a_server_answers_is_bounded_and_stays_text(tmp_path: Path) -> None:
    results = {}
    for mode in ("megabytes", "tokens", "separators", "instructions", "picture"):
        with hostile(mode, tmp_path) as server:
            results[mode] = server.call("look", {})
    assert len(results["megabytes"]) < MAX_RESULT + 60 and "5000000 characters in all" in results["megabytes"]
    assert results["picture"] == "[image]"
    messages = [{"role": "tool", "tool_call_id": "functions.look:0", "content": text} for text in results.values()]
    write_lines(tmp_path / "a.jsonl", messages)
    assert read_lines(tmp_path / "a.jsonl") == messages
    for message in messages:
        shown = list(pieces([{"role": "system", "content": "s"}, message], None, False, "typescript"))
        assert [piece.text for piece in shown if piece.special] == ["<|im_system|>", "<|im_middle|>", "<|im_end|>"] * 2
        assert not any(piece.sampled for piece in shown)
    assert any(token in results["tokens"] for token in SPECIAL_TOKENS)


def test_a_listed_tool_that_cannot_be_declared_is_refused_and_pages_end(tmp_path: Path) -> None:
    with hostile("endless", tmp_path) as server:
        tools, refused = server.tools()
    assert {tool.name for tool in tools} == {"look"} and len(tools) == 100
    assert {entry.reason for entry in refused} == {"control tokens"} and refused[0].source == "mcp:bad"


def test_a_flood_of_errors_fills_no_disk_and_no_memory(tmp_path: Path) -> None:
    with hostile("errors", tmp_path) as server:
        with pytest.raises(ServerFault, match=r"\[its last line: the last line\]"):
            server.call("look", {})
        assert server.child and len(server.child.said) <= child.KEPT
    assert list(tmp_path.iterdir()) == []


def test_a_line_without_an_end_ends_the_server(tmp_path: Path) -> None:
    with hostile("line", tmp_path) as server:
        with pytest.raises(ServerFault, match=r"\[it wrote a line of more than 16,777,216 bytes\]"):
            server.call("look", {})
        assert server.broken


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
def test_what_a_server_hides_ends_with_it(tmp_path: Path) -> None:
    import psutil

    def there() -> list[int]:
        return [p.pid for p in psutil.process_iter(["cmdline"]) if HOSTILE in (p.info["cmdline"] or [])]

    before = there()
    with hostile("hides", tmp_path) as server:
        assert server.call("look", {}) == "hidden"
        assert len(set(there()) - set(before)) == 2
    assert set(there()) <= set(before)


@pytest.mark.parametrize("key", ["", "planted-key"])
@pytest.mark.parametrize("kind", ["url", "sse"])
def test_a_server_by_address(tmp_path: Path, kind: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp.server.mcpserver import MCPServer

    made = MCPServer("adder")

    @made.tool()
    def add(a: int, b: int) -> str:
        """Add."""
        return f"it is {a + b}"

    app = made.streamable_http_app() if kind == "url" else made.sse_app()
    shown = set()

    async def asks(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            shown.add(dict(scope["headers"]).get(b"authorization", b"").decode())
        await app(scope, receive, send)

    monkeypatch.setenv("ADDER_KEY", "planted-key")
    variable = {"api_key_variable": "ADDER_KEY"} if key else {}
    with served(asks) as base:
        place = f"{base}/{'mcp' if kind == 'url' else 'sse'}"
        with serve("adder", ServerSpec(**{kind: place}, category="maths", **variable), tmp_path) as server:
            (tool,), refused = server.tools()
            assert (tool.name, tool.category, tool.origin, refused) == ("add", "maths", "mcp:adder", [])
            assert server.call("add", {"a": 2, "b": 3}) == "it is 5"
            assert "rror" in server.call("add", {"a": "x", "b": 3}) and not server.broken
    assert shown == {f"Bearer {key}" if key else ""}, "no other credentials, and none where none are named"


@pytest.mark.parametrize("how", ["long", "compressed"])
def test_an_answer_by_address_is_bounded(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def left(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def floods(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        encoding = [(b"content-encoding", b"gzip")] if how == "compressed" else []
        headers = [(b"content-type", b"application/json"), *encoding]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone = asyncio.ensure_future(left(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": b" " * 2**16, "more_body": True})

    monkeypatch.setattr(address, "MOST_BYTES", 2**20)
    with served(floods) as base:
        started = time.monotonic()
        with pytest.raises(StageError, match="does not start"):
            with serve("bad", ServerSpec(url=f"{base}/mcp", category="x", timeout_s=60.0), tmp_path):
                pass
        assert time.monotonic() - started < 45, "the time-out ended it, not the bound"


def test_a_missing_key_is_a_sentence(tmp_path: Path) -> None:
    spec = ServerSpec(url="http://127.0.0.1:9/mcp", api_key_variable="NO_SUCH_KEY", category="x")
    with pytest.raises(StageError, match=r"tools\.servers\.bad\.api_key_variable: no environment variable NO_SUCH_KEY"):
        with serve("bad", spec, tmp_path):
            pass
    with pytest.raises(RecipeError, match="a command takes no api_key_variable"):
        validate(ServerSpec, {"command": ["a"], "api_key_variable": "KEY", "category": "x"}, "servers.a")
