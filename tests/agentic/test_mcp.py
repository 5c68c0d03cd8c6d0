"""MCP servers by command and by address, and what a hostile one can do: a sentence, or a bounded result."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("kind", ["url", "sse"])
def test_a_server_by_address(tmp_path: Path, kind: str) -> None:
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    made = MCPServer("adder")

    @made.tool()
    def add(a: int, b: int) -> str:
        """Add."""
        return f"it is {a + b}"

    app = made.streamable_http_app() if kind == "url" else made.sse_app()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        running = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.05)
            address = f"http://127.0.0.1:{port}/{'mcp' if kind == 'url' else 'sse'}"
            with serve("adder", ServerSpec(**{kind: address}, category="maths"), tmp_path) as server:
                (tool,), refused = server.tools()
                assert (tool.name, tool.category, tool.origin, refused) == ("add", "maths", "mcp:adder", [])
                assert server.call("add", {"a": 2, "b": 3}) == "it is 5"
                assert "rror" in server.call("add", {"a": "x", "b": 3}) and not server.broken
        finally:
            running.should_exit = True
            thread.join(20)
