"""Tasks on real servers, started by the commands of the default recipe: played, judged by what is there at the end."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from seen import unseen
from workspace import ROOT

from k2core.agentic.dialogues.dialogue import converse
from k2core.agentic.dialogues.oracle import OracleAgent
from k2core.agentic.dialogues.play import Player
from k2core.agentic.tasks.judge import Evidence, judge
from k2core.agentic.tasks.real_domain import RealWorld, real_domains
from k2core.agentic.tools.mcp import ServerSpec, serve
from k2core.agentic.tools.simulator import state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall
from k2core.recipe import read_recipe, validate
from k2core.stage import StageError

ENTRIES = read_recipe(ROOT / "recipes/laptop.yaml")["tools"]["servers"]
SERVERS = {name: validate(ServerSpec, entry, name) for name, entry in ENTRIES.items()}
HOSTILE = Path(__file__).with_name("hostile_server.py")


@cache
def tools_of(name: str, folder: Path) -> dict[str, ToolSpec]:
    real_domains()[name].make(folder, {})
    with serve(name, SERVERS[name], folder) as server:
        tools, refused = server.tools()
    assert not refused
    return {tool.name: tool for tool in tools}


def test_each_default_server_has_tasks() -> None:
    assert set(real_domains()) == set(SERVERS)


@pytest.mark.parametrize("name", list(SERVERS))
def test_the_oracle_solves_what_doing_nothing_does_not(name: str, tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    tools = tools_of(name, tmp_path / "list")
    tasks = [real_domains()[name].task(1, number) for number in range(18)]
    assert tasks == [real_domains()[name].task(1, number) for number in range(18)]
    player = Player(tools, 1, 0.0)
    played = player.real(tasks, SERVERS, tmp_path / "play")
    failed = [row for row in played if not row["verdict"]["passed"]]
    assert len(played) == 18 and not failed, failed
    assert str(tmp_path) not in json.dumps(played)
    assert played[:3] == player.real(tasks[:3], SERVERS, tmp_path / "again")
    for task, row in zip(tasks, played, strict=True):
        texts = " ".join(re.findall(r'"text": "(.*?)"', json.dumps(task["goal"])))  # such as the words of SQL
        assert not unseen(row["messages"], row["tools"], texts), row["messages"]
    for task in tasks:
        silent = [{"role": "assistant", "content": task["gold_answer"]}]
        assert (
            not judge(task, Evidence(silent, [], state_hash(task["initial_state"]))).passed or task["domain"] == "git"
        )


def other_world(task: dict[str, Any]) -> dict[str, Any]:
    """The task in a world whose unread values are others."""
    state = copy.deepcopy(task["initial_state"])
    for table in state.values():
        for record in table.values():
            if "text" in record:
                record["text"] = f"other {record['text']}"
            elif "branch" in record:
                record |= {"branch": "elsewhere", "branches": ["elsewhere", "main"]}
            else:
                number = next(name for name, value in record.items() if isinstance(value, int))
                record[number] = 12_000 - record[number]
    return {**task, "initial_state": state}


@pytest.mark.parametrize(
    ("name", "numbers"), [("filesystem", (0, 5)), ("git", (4,)), ("sqlite", (0, 5, 7))], ids=lambda value: str(value)
)
def test_the_oracle_follows_the_server_and_not_the_gold(name: str, numbers: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    tasks = [other_world(real_domains()[name].task(1, number)) for number in numbers]
    player = Player(tools_of(name, tmp_path / "list"), 1, 0.0)
    for task, row in zip(tasks, player.real(tasks, SERVERS, tmp_path / "play"), strict=True):
        called = [call["function"]["arguments"] for m in row["messages"] for call in m.get("tool_calls", [])]
        answer, gold, (table, *_) = row["messages"][-1]["content"], task["gold_calls"], task["initial_state"].values()
        if name == "git":
            assert "elsewhere" in answer
        elif name == "filesystem":
            (text,) = [file["text"] for path, file in table.items() if path == json.loads(called[0])["path"]]
            assert text in (answer if len(called) == 1 else called[1])
            assert text.startswith("other ")
        elif len(called) == 3:  # the smallest of the changed table is the largest of the old one
            assert json.loads(called[2])["sql"] != gold[2]["arguments"]["sql"]
            (least,) = re.findall("name = '(.+)'", called[2])
            assert least in row["messages"][-4]["content"] and least in answer
        else:
            assert task["gold_answer"] != answer and row["verdict"]["checks"]["mentions"] is False


def test_a_call_outside_the_task_is_not_carried_out(tmp_path: Path) -> None:
    task = real_domains()["git"].task(1, 0)
    (tmp_path / "list").mkdir()
    tools = tools_of("git", tmp_path / "list")
    (tmp_path / "git").mkdir()
    with serve("git", SERVERS["git"], tmp_path / "git", real_domains()["git"].environment) as server:
        declared = {name: tools[name] for name in task["tools"]}
        world = RealWorld(real_domains()["git"], server, tmp_path / "git", declared, task["initial_state"])
        assert world.state == task["initial_state"]
        for bad in ('{"repo_path": "/"}', "{", '{"repo_path": "other", "branch_name": "x"}'):
            assert not world.execute(ToolCall("functions.git_create_branch:0", "git_create_branch", bad)).valid
        converse(task, OracleAgent(task["goal"], declared, Random(0)), world)
        assert world.outcomes[-1].valid and world.state != task["initial_state"]


def test_a_server_that_dies_costs_its_dialogue_and_no_other(tmp_path: Path) -> None:
    spec = ServerSpec(command=["python", str(HOSTILE), "dies"], category="x")
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    tools = {
        name: ToolSpec(name, "", schema, "time", "x", "mcp:time", None, "train")
        for name in ("convert_time", "get_current_time")
    }
    tasks = [real_domains()["time"].task(1, number) for number in range(2)]
    played = Player(tools, 1, 0.0).real(tasks, {"time": spec}, tmp_path)
    assert [row["verdict"]["passed"] for row in played] == [False, False]
    for row in played:
        (said,) = [message["content"] for message in row["messages"] if message["role"] == "tool"]
        assert "the MCP server time failed at the call of convert_time" in said


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../out"},
        {"name": "--bare"},
        {"branches": ["main", "--help"]},
        {"files": ["../../out"]},
        {"files": [""]},
    ],
)
def test_a_tampered_git_task_writes_nothing_outside_its_folder(tmp_path: Path, changed: dict[str, Any]) -> None:
    wanted = {"branch": "main", "branches": ["main"], "staged": [], "files": ["notes.txt"], **changed}
    name = wanted.pop("name", "repo")
    (tmp_path / "in" / "folder").mkdir(parents=True)
    with pytest.raises(StageError, match=r"real_tasks\.jsonl: .* is no name of this project's; run `tasks` again"):
        real_domains()["git"].make(tmp_path / "in" / "folder", {"git": {name: wanted}})
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "folder"]


def test_no_argument_becomes_an_option_of_git() -> None:
    git, initial = real_domains()["git"], {"git": {"repo": {}}}
    for bad in ({"branch_name": "--help"}, {"files": ["notes.txt", "-A"]}, {"deep": {"er": ["-c"]}}):
        assert "would be an option" in git.refusal({"repo_path": "repo", **bad}, Path(), initial)
    assert git.refusal({"repo_path": "repo", "branch_name": "a-b"}, Path(), initial) == ""
