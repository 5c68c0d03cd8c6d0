"""Who plays: rejection sampling, the LLM agent (with a stub client), and real MCP servers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from k2core.agentic.dialogues.agents import LLMAgent
from k2core.agentic.dialogues.play import Player, figures
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.git_tasks import KINDS, git_task
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import plain_tools
from k2core.agentic.tools.mcp import SERVERS, GitWorld, McpServer, serve
from k2core.chat.parser import ToolCall
from k2core.stage import StageError

TOOLS = {tool.name: tool for domain in domains().values() for tool in plain_tools(domain)}
TASK = TaskMaker(TOOLS, {"single": 1}, 1).task("train", 0)


class StubLLM:
    """Gives prepared answers and checks that each request's schema is one and admits its answer."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def complete(self, messages: list[dict[str, str]], *, schema: dict[str, Any], **_: object) -> str:
        assert all(isinstance(message["content"], str) for message in messages)
        Draft202012Validator.check_schema(schema)
        answer = self.answers.pop(0)
        if answer.startswith("{"):
            Draft202012Validator(schema).validate(json.loads(answer))
        return answer


def test_rejection_sampling_stops_at_the_first_that_passes() -> None:
    player = Player(TOOLS, 1, 0.0)
    (good,) = player.planner(TASK, 3, mistake_rate=0.0)
    assert good["verdict"]["passed"] and good["id"] == f"{TASK['id']}/planner/0" and good["agent"] == "planner"
    played = player.planner(TASK, 3, mistake_rate=0.999999)
    assert [row["verdict"]["passed"] for row in played] == [False] * 3
    assert player.planner(TASK, 3, 0.5) == player.planner(TASK, 3, 0.5)
    found = figures([good], played)
    assert (found["accepted/planner"], found["rejected/planner"]) == (1.0, 3.0)
    assert sum(value for name, value in found.items() if name.startswith("failed_check/")) >= 3


def test_the_llm_agent_solves_a_task_and_survives_nonsense() -> None:
    player = Player(TOOLS, 1, 0.0)
    (call,) = TASK["gold_calls"]
    act = json.dumps({"tool": call["name"], "arguments": call["arguments"]})
    good = player.llm(TASK, StubLLM(act, json.dumps({"say": TASK["gold_answer"]})), 0.0, 50)
    assert good["verdict"]["passed"] and good["agent"] == "llm"
    for nonsense in ('["cut off', "[1]", "3", "", "[" * 100_000):
        assert not player.llm(TASK, StubLLM(nonsense), 0.0, 50)["verdict"]["passed"]


def test_after_a_result_the_llm_agent_must_speak() -> None:
    agent = LLMAgent(StubLLM(), [TOOLS["get_event"]], 0, 0.0, 10)
    assert "anyOf" in agent._schema([{"role": "user", "content": ""}])
    assert "anyOf" not in agent._schema([{"role": "tool", "content": "{}"}])
    assert "anyOf" in agent._schema([{"role": "tool", "content": '{"error": "temporarily unavailable, try again"}'}])


def test_real_servers_list_their_tools_and_really_act(tmp_path: Path) -> None:
    with serve("time", tmp_path) as server:
        clock = {tool.name: tool for tool in server.tools()}
    assert {"get_current_time", "convert_time"} <= set(clock)
    assert clock["convert_time"].origin == "mcp:time" and clock["convert_time"].operation is None
    with serve("git", tmp_path) as server:
        tools = {tool.name: tool for tool in server.tools()}
        for tool in tools.values():
            Draft202012Validator.check_schema(tool.parameters)
            assert "title" not in tool.parameters
        task = git_task(1, 0)
        declared = {name: tools[name] for name in task["tools"]}
        world = GitWorld(server, tmp_path, declared, task["initial_state"])
        assert world.state == task["initial_state"]
        for bad in ('{"repo_path": "/"}', "{", '{"repo_path": "other", "branch_name": "x"}'):
            assert not world.execute(ToolCall("functions.git_create_branch:0", "git_create_branch", bad)).valid
        call = task["gold_calls"][0]
        outcome = world.execute(ToolCall("functions.x:0", call["name"], json.dumps(call["arguments"])))
        branch = call["arguments"]["branch_name"]
        assert outcome.valid and branch in outcome.text
        assert branch in world.state["git"][world.name]["branches"]
        player = Player(tools, 1, 0.0)
    played = player.git([git_task(1, i) for i in range(len(KINDS))], tmp_path / "all")
    assert all(row["verdict"]["passed"] for row in played), played


def test_a_server_that_does_not_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SERVERS, "none", ("no_such_module", (), "x"))
    with pytest.raises(StageError, match=r"MCP server none .* does not start"):
        with serve("none", tmp_path):
            pass


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../outside"}, {"name": "/tmp/outside"}, {"name": ".."}, {"name": "a/b"}, {"name": "-C"},
        {"files": ["../../outside.txt"]}, {"files": ["/tmp/outside.txt"]}, {"branches": ["main", "--help"]},
        {"branch": "-q"},
    ],
)  # fmt: skip
def test_a_tampered_task_writes_nothing_outside_its_folder(tmp_path: Path, changed: dict[str, Any]) -> None:
    wanted = {"branch": "main", "branches": ["main"], "staged": [], "files": ["notes.txt"], **changed}
    name = wanted.pop("name", "repo")
    (tmp_path / "in" / "folder").mkdir(parents=True)
    with pytest.raises(StageError, match=r"git_tasks\.jsonl: .* is no name of this project's; run `tasks` again"):
        GitWorld(None, tmp_path / "in" / "folder", {}, {"git": {name: wanted}})  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "folder"]


def test_no_argument_becomes_an_option_of_git(tmp_path: Path) -> None:
    class Server:
        def call(self, name: str, arguments: dict[str, Any]) -> str:
            raise AssertionError("carried out")

    tool = next(iter(TOOLS.values()))
    anything = {"type": "object"}
    tools = {"git_diff": dataclasses.replace(tool, name="git_diff", parameters=anything)}
    initial = {"git": {"repo": {"branch": "main", "branches": ["main"], "staged": [], "files": []}}}
    world = GitWorld(Server(), tmp_path, tools, initial)  # type: ignore[arg-type]
    for target in ("--output=/tmp/x", ["a", "--output=/tmp/x"]):
        arguments = json.dumps({"repo_path": "repo", "target": target})
        assert not world.execute(ToolCall("functions.git_diff:0", "git_diff", arguments)).valid


def test_a_server_whose_schema_cannot_be_used_is_one_sentence() -> None:
    class Portal:
        def call(self, *_: object) -> Any:
            tool = SimpleNamespace(name="now", description="", input_schema={"properties": {"a": {"$ref": "#/none"}}})
            return SimpleNamespace(tools=[tool])

    server = McpServer("time", Portal(), SimpleNamespace(list_tools=None))  # type: ignore[arg-type]
    with pytest.raises(StageError, match=r"MCP server time: the schema of its tool now cannot be used \(.*#/none"):
        server.tools()
