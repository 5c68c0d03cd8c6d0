"""A chat: what is shown of a reply, calls that are made or declined, and the command as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from untrained import export_untrained
from workspace import ROOT

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tools.evolve import plain_tools
from k2core.agentic.tools.specs import write_tools
from k2core.chat.parser import ToolCall
from k2core.chat.template import reply_text
from k2core.chat.tokenizer import Tokenizer
from k2core.formats.huggingface import load_huggingface
from k2core.inference.enforcer import Enforcer
from k2core.stage import StageError
from k2core.talk import session as talk
from k2core.talk.session import DECLINED, Full, Session
from k2core.talk.tools import Cupboard, Tools

CLOCK = {"command": [sys.executable, "-m", "mcp_server_time", "--local-timezone=UTC"], "category": "time"}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "", "parameters": {"properties": {"city": {"type": "string"}}}},
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the stage `export` writes it, of an untrained model."""
    return export_untrained(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the stage `tools` writes it."""
    folder = tmp_path_factory.mktemp("tools")
    write_tools(folder / "tools.jsonl", [tool for domain in domains().values() for tool in plain_tools(domain)])
    (folder / "servers.json").write_text(json.dumps({"time": CLOCK}))
    return folder


@pytest.fixture
def begin(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Session]:
    """A session in which the model writes the given replies; an exception among them is raised in its place."""
    model, tokenizer = load_huggingface(exported), Tokenizer.load(exported)

    def make(*replies: str | BaseException, tools: Tools | None = None, agrees: bool = True) -> Session:
        left = iter(replies)

        def stream(*_: object, **__: object) -> Iterator[int]:
            while not isinstance(reply := next(left), str):
                raise reply
            for token in tokenizer.encode(reply, allow_special=True):
                if token == tokenizer.encode("☃")[-1]:
                    raise KeyboardInterrupt
                yield token

        monkeypatch.setattr(talk, "stream", stream)
        session = Session(
            model, tokenizer, Enforcer(tokenizer), 64, 0.0, 1, heard=lambda piece: heard.append(piece),
            called=lambda call, result: calls.append((call.name, result)), allowed=lambda _: agrees, system="Answer.",
            tools=tools,
        )  # fmt: skip
        heard, calls = [], []
        session.pieces, session.calls = heard, calls  # type: ignore[attr-defined]
        return session

    return make


def calling(arguments: str) -> str:
    call = {"id": "functions.get_weather:0", "function": {"name": "get_weather", "arguments": arguments}}
    return reply_text({"content": "I look.", "tool_calls": [call]})


def weather(outside: bool) -> Tools:
    return Tools([WEATHER], lambda call: f"rain in {json.loads(call.arguments)['city']}", outside)


def test_what_is_shown_is_what_is_kept_and_no_half_of_a_character(begin):
    session = begin("Grüße, 窓! 🙂<|im_end|>")
    session.say("Hello")
    assert "".join(session.pieces) == session.messages[-1]["content"] == "Grüße, 窓! 🙂"
    assert not any("\ufffd" in piece for piece in session.pieces)


def test_a_call_is_made_and_the_model_reads_the_result(begin):
    session = begin(calling('{"city": "Oslo"}'), "It rains.<|im_end|>", tools=weather(outside=True))
    session.say("What is the weather in Oslo?")
    assert session.calls == [("get_weather", "rain in Oslo")]
    assert [message["role"] for message in session.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert "".join(session.pieces) == "I look.It rains."  # calls are shown apart


@pytest.mark.parametrize("outside", [True, False])
def test_without_consent_nothing_outside_is_touched(begin, outside):
    session = begin(calling('{"city": "Oslo"}'), "Well.<|im_end|>", tools=weather(outside), agrees=False)
    session.say("What is the weather in Oslo?")
    assert session.calls == [("get_weather", DECLINED if outside else "rain in Oslo")]


def test_ctrl_c_ends_the_reply_and_keeps_what_stands(begin):
    session = begin("One two ☃ three<|im_end|>", "Yes.<|im_end|>")
    session.say("Count")
    assert session.messages[-1]["content"] == "One two "
    session.say("Go on")
    assert session.messages[-1]["content"] == "Yes."


def test_a_full_context_is_said_and_the_dialogue_stays(begin):
    session = begin("Yes.<|im_end|>")
    session.say("Hello")
    before = list(session.messages)
    with pytest.raises(Full, match="of the model's 512 tokens; /new"):
        session.say("word " * 600)
    assert session.messages == before


def test_a_domain_s_tools_act_on_the_world_that_is_shown(tools, tmp_path):
    with Cupboard(tools).open("contacts", [], 1, tmp_path) as opened:
        name = opened.world.partition("contact ")[2].partition(":")[0]
        result = json.loads(opened.make(ToolCall("functions.get_contact:0", "get_contact", json.dumps({"name": name}))))
    assert result["contact"] == name and f"phone {result['phone']}" in opened.world and not opened.outside


def test_a_server_with_tasks_has_a_world_and_their_tools(tools, tmp_path):
    database = {"command": ["database-mcp-sqlite", "--allow-write", "--dsn", "world.sqlite"], "category": "databases"}
    (folder := tmp_path / "tools").mkdir()
    (folder / "tools.jsonl").write_bytes((tools / "tools.jsonl").read_bytes())
    (folder / "servers.json").write_text(json.dumps({"sqlite": database}))
    (place := tmp_path / "place").mkdir()
    with Cupboard(folder).open("sqlite", [], 1, place) as opened:
        names = [each["function"]["name"] for each in opened.declarations]
        assert names == ["execute_sql", "search_objects"] and opened.outside
        table, row = opened.world.split()[:2]
        call = ToolCall("0", "execute_sql", json.dumps({"sql": f"SELECT name FROM {table}"}))
        assert row.strip(":") in opened.make(call)


def test_tools_that_there_are_not_are_said(tools, tmp_path):
    for name, wanted, message in (
        ("moon", [], "no tools moon; there are accounts,"),
        ("notes", ["fly"], "no tool fly"),
    ):
        with pytest.raises(StageError, match=message), Cupboard(tools).open(name, wanted, 1, tmp_path):
            pass


def test_the_command_with_a_real_server(exported, tools):
    said = "Hello\nx\udcff\udcfe\n/tools notes\n/tools time get_current_time\n/tools moon\n/dance\n/new\n/help\n/quit\n"
    command = [sys.executable, "-m", "k2core.talk", exported, "--tools", tools, "--max-tokens", "8"]
    done = subprocess.run(command, cwd=ROOT, input=said, capture_output=True, text=True, errors="surrogateescape",
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0 and not done.stderr
    for words in ("512 tokens of context", "note ", "get_current_time: ", "no tools moon", "no command /dance", "/new"):
        assert words in done.stdout, done.stdout


def test_a_folder_without_a_model_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "k2core.talk", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (
        done.returncode == 1 and done.stderr.count("\n") == 1 and "no such file; name an exported model" in done.stderr
    )
