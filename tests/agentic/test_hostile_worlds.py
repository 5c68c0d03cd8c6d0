"""Agents and servers that do to a world what no task asks for: refused, or the failure of that task alone."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_real import HOSTILE, SERVERS

from k2core.agentic.dialogues.play import Player
from k2core.agentic.tasks.real.sqlite import FILE
from k2core.agentic.tasks.real_domain import UNREADABLE, RealWorld, WorldFault, real_domains
from k2core.agentic.tools.mcp import ServerSpec, serve
from k2core.agentic.tools.simulator import state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall
from k2core.stage import StageError
from k2core.storage.atomic import remove


@contextmanager
def world(name: str, folder: Path, number: int = 0) -> Iterator[RealWorld]:
    """The world of a task, on the server of the default recipe, with all its tools."""
    domain = real_domains()[name]
    folder.mkdir()
    domain.make(folder, {})
    with serve(name, SERVERS[name], folder, domain.environment) as server:
        tools = {tool.name: tool for tool in server.tools()[0]}
        yield RealWorld(domain, server, folder, tools, domain.task(1, number)["initial_state"])


def ask(world: RealWorld, tool: str, **arguments: Any) -> str:
    outcome = world.execute(ToolCall(f"functions.{tool}:0", tool, json.dumps(arguments)))
    return f"refused: {outcome.text}" if not outcome.valid else outcome.text


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH 'x.db' AS y", "\ufeffATTACH 'x.db' AS y", "VACUUM INTO 'y'", "BEGIN EXCLUSIVE", "PRAGMA query_only",
        "SELECT * FROM pragma_database_list", "SELECT * FROM PRAGMA_table_list", "SELECT load_extension('x')",
        'CREATE TABLE "x""y" (a)', "CREATE TABLE b AS SELECT x'ff' AS name", "CREATE VIRTUAL TABLE f USING fts5(a)",
        "CREATE TABLE s (id INTEGER PRIMARY KEY AUTOINCREMENT)", "CREATE TRIGGER t AFTER DELETE ON wines BEGIN END",
        "/* */ DROP TABLE x", "INSERT INTO sqlite_master VALUES (1)", "EXPLAIN SELECT 1", "",
    ],
)  # fmt: skip
def test_statements_that_no_task_needs_are_refused(sql: str) -> None:
    assert real_domains()["sqlite"].refusal({"sql": sql}, Path(), {})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FROM attachments",
        " with a as (select 1) select * from a",
        "DELETE FROM wines",
        "INSERT INTO a VALUES (1)",
    ],
)
def test_others_are_not(sql: str) -> None:
    assert real_domains()["sqlite"].refusal({"sql": sql}, Path(), {}) == ""
    assert real_domains()["sqlite"].refusal({"table": "wines"}, Path(), {}) == ""


@pytest.mark.parametrize(
    "insert",
    [
        "INSERT INTO {table} VALUES (x'ff', x'fe', 1)", "INSERT INTO {table} VALUES ('a', CAST(x'ff' AS TEXT), 1)",
        "INSERT INTO {table} WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 20000) "
        "SELECT x, x, x FROM c",
    ],
)  # fmt: skip
def test_rows_that_cannot_be_told_cost_their_task(tmp_path: Path, insert: str) -> None:
    with world("sqlite", tmp_path / "w") as here:
        text = ask(here, "execute_sql", sql=insert.format(table=next(iter(here.initial))))
        assert "affected" in text, text
        assert here.state == UNREADABLE and here.server.broken
        assert state_hash(here.state) != state_hash(here.initial)


@pytest.mark.parametrize(
    "sql",
    [
        'CREATE TABLE "x""y" (a)', "CREATE TABLE s (id INTEGER PRIMARY KEY AUTOINCREMENT, a)", "BEGIN EXCLUSIVE",
        "CREATE TABLE b AS SELECT x'ff' AS name, x'fe' AS v",
    ],
)  # fmt: skip
def test_a_database_that_a_server_has_spoilt_is_a_fault_and_no_traceback(
    tmp_path: Path, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own hand: the calls are refused. What cannot be cleared away is the world's fault, not the task's."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, timeout=0.1))
    with world("sqlite", tmp_path / "w") as here, closing(connect(tmp_path / "w" / FILE)) as theirs:
        theirs.execute(sql)
        assert here.state == UNREADABLE or sql.startswith("CREATE TABLE s")
        try:
            RealWorld(here.domain, here.server, here.folder, here.tools, here.initial)
        except WorldFault as fault:
            assert "OperationalError" in str(fault)


def test_the_calls_of_a_folder_stay_in_it(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with world("filesystem", tmp_path / "w") as here:
        for name, target in (("dangling", outside / "new.txt"), ("folder", outside), ("file", outside / "s.txt")):
            (here.folder / name).symlink_to(target)
        for path in ("dangling", "folder/new.txt", "file", "./folder/../dangling"):
            assert "leads through a link" in ask(here, "fs_write", path=path, content="ESCAPED")
        assert "leads through a link" in ask(here, "fs_move", source="dangling", destination="x.txt")
        assert "more than 200 characters" in ask(here, "fs_write", path="a/" * 600 + "x", content="1")
        for bad in ("../outside/w.txt", str(outside / "w.txt")):
            assert "PathEscape" in ask(here, "fs_write", path=bad, content="x")
        assert "is no tool of this world" in ask(here, "git_init_repo", repo_path="r")
        assert not (here.folder / "r").exists() and list(outside.iterdir()) == []
        assert '"written"' in ask(here, "fs_write", path="sub/n.txt", content="x")


def test_a_filter_of_a_repository_is_not_run(tmp_path: Path) -> None:
    """The server's git tools run what `.git/config` names, which its `fs_write` can write."""
    with world("filesystem", tmp_path / "w") as here:
        config = f'[core]\n\trepositoryformatversion = 0\n[filter "x"]\n\tclean = touch {tmp_path}/PWNED\n'
        for tool, arguments in (
            ("git_init_repo", {"repo_path": "r"}), ("fs_write", {"path": "r/.git/config", "content": config}),
            ("fs_write", {"path": "r/.gitattributes", "content": "* filter=x\n"}),
            ("fs_write", {"path": "r/a.dat", "content": "hello"}),
            ("git_stage", {"repo_path": "r", "paths": ["a.dat"]}),
        ):  # fmt: skip
            ask(here, tool, **arguments)
    assert not (tmp_path / "PWNED").exists()


def test_a_server_that_spoils_its_folder_costs_its_task_and_no_other(tmp_path: Path) -> None:
    spec = ServerSpec(command=["python", str(HOSTILE), "world"], category="x", timeout_s=20.0)
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    tasks = [real_domains()["filesystem"].task(1, number) for number in range(2)]
    names = {name for task in tasks for name in task["tools"]}
    tools = {name: ToolSpec(name, "", schema, "filesystem", "x", "mcp:filesystem", None, "train") for name in names}
    played = Player(tools, 1, 0.0).real(tasks, {"filesystem": spec}, tmp_path / "play")
    assert [row["task_id"] for row in played] == [task["id"] for task in tasks]
    assert [row["verdict"]["checks"]["state"] for row in played] == [False, False]
    remove(tmp_path / "play")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "", "-x"])
def test_a_tampered_task_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "folder"
    folder.mkdir(parents=True)
    for domain, state in (("filesystem", {"files": {name: {"text": "x"}}}), ("sqlite", {name or "-": {}})):
        with pytest.raises(StageError, match=r"real_tasks\.jsonl: .* is no name of this project's; run `tasks` again"):
            real_domains()[domain].make(folder, state)
    assert [path.name for path in tmp_path.rglob("*") if path.name != FILE] == ["in", "folder"]


def test_a_folder_of_any_depth_is_removed(tmp_path: Path) -> None:
    top, here = tmp_path / "top", os.getcwd()
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
            with open("f", "w"):
                pass
    finally:
        os.chdir(here)
    (tmp_path / "kept").write_text("x")
    (top / "link").symlink_to(tmp_path)
    remove(top)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
