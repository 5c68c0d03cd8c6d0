"""The ablations: what each arm trains on, that the stages get what they ask for, that nothing is trained twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from asked import asked
from typer.testing import CliRunner

from experiments import ablations
from experiments.variants import ARMS, FULL, LIST, Closed
from k2core.agentic.dialogues.play import Player
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import plain_tools, world_tools
from k2core.agentic.tools.specs import write_tools
from k2core.agentic.worlds.world import worlds
from k2core.gym.demonstrations import is_heldout
from k2core.recipe import read_recipe
from k2core.storage import read_lines, write_json, write_lines

ROOT = Path(__file__).parents[2]
MIX = {"single": 0.6, "parallel": 0.12, "chain": 0.08, "ask": 0.1, "none": 0.1}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the arms read of a finished workspace."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ablations.INPUTS[1:]:
        (folder / name).mkdir(parents=True)
    recipe = read_recipe(ROOT / "recipes/micro.yaml")
    recipe["sft"]["text"] |= {"recall": 0.1}
    recipe["tasks"] |= {"train": 60, "richer": recipe["tasks"]["richer"] | {"train": 6}}
    (folder / "params.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    plain = {tool.name: tool for domain in domains().values() for tool in plain_tools(domain)}
    of_worlds = [tool for world in worlds().values() for tool in world_tools(world)]
    write_tools(folder / "data/tools/tools.jsonl", [*plain.values(), *of_worlds])
    tasks = [TaskMaker(plain, MIX, 1).task("train", number) for number in range(60)]
    played = [row for task in tasks for row in Player(plain, 1, 0.0).oracle(task, 3, 0.3)]
    for name, passed in (("accepted", True), ("rejected", False)):
        rows = [row for row in played if row["verdict"]["passed"] == passed]
        write_lines(folder / f"data/trajectories/{name}.jsonl", rows)
    return folder


class Stages:
    """In the stages' place: checks what a stage is given, and writes a scorecard that tells the arm."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.seeds: list[int] = []
        self.fails = ""

    def __call__(self, words: list[str], cwd: Path, **_: Any) -> Any:
        name, options, recipe = asked(words)
        self.ran.append(f"{name} {Path(options['--out']).relative_to(cwd.parent)}")
        if self.fails == self.ran[-1]:
            return SimpleNamespace(returncode=1)
        out = Path(options["--out"])
        out.mkdir()
        if name == "sft":
            self.seeds.append(recipe["compute"]["seed"])
        if name == "evaluate":
            exact = 0.0 if "judge_off" in str(out) else 1.0
            items = {measure: {"a": [exact] * 20} for measure in ablations.MEASURES}
            items["tool_calls/called_when_none_due"] = {"a": []}
            write_json(out / "items.json", items)
            write_json(out / "scorecard.json", {"scores": {ablations.BITS: {"value": 2.0 - exact}}})
        return SimpleNamespace(returncode=0)


def run(workspace: Path, tmp_path: Path, *words: str) -> Any:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- ablations:begin -->\n<!-- ablations:end -->\n")
    places = ["--workspace", workspace, "--work", tmp_path / "work", "--results", tmp_path / "r.json", "--page", page]
    return CliRunner().invoke(ablations.app, [*words, *map(str, places)])


def test_what_is_finished_is_not_trained_again(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages()
    monkeypatch.setattr(ablations, "subprocess", SimpleNamespace(run=stages))
    stages.fails = "sft seed-2/sft"
    failed = run(workspace, tmp_path, "judge_off", "--seeds", "2")
    assert failed.exit_code == 1 and "ended with status 1; the same command goes on there" in failed.output
    assert stages.ran == ["sft seed-1/sft", "evaluate seed-1/scores", "sft seed-2/sft"]
    stages.ran, stages.fails = [], ""
    assert run(workspace, tmp_path, "judge_off", "--seeds", "2").exit_code == 0
    assert stages.ran[:2] == ["sft seed-2/sft", "evaluate seed-2/scores"] and len(stages.ran) == 6
    assert stages.seeds == [1, 2, 1, 2]
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["measures"]["tool_calls/exact"]["judge_off - full"] == {"value": -1.0, "low": -1.0, "high": -1.0}
    assert found["bits"] == {"full": [1.0, 1.0], "judge_off": [2.0, 2.0]}
    said = (tmp_path / "page.md").read_text()
    assert "| the first dialogue of each task, unjudged | -1.000 (-1.000 to -1.000) | " in said and "+1.000 |" in said
    assert "called when none was due" not in said, "no item, no figure"


def test_a_base_without_copying_is_trained_phase_by_phase(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages()
    monkeypatch.setattr(ablations, "subprocess", SimpleNamespace(run=stages))
    assert run(workspace, tmp_path, "no_copying", "--seeds", "1").exit_code == 0
    trained = [line.rpartition("/")[2] for line in stages.ran[2:]]
    assert trained == ["stable", "decay", "anneal", "long", "base", "sft", "scores"]
    (written,) = (tmp_path / "work").glob("*/no_copying/stable.yaml")
    recipe, before = (read_recipe(path) for path in (written, workspace / "params.yaml"))
    for now, then in (
        (recipe["pretrain"]["decay"]["mixture"], before["pretrain"]["decay"]["mixture"]),
        (recipe["extend_context"]["mixture"], before["extend_context"]["mixture"]),
        (recipe["sft"]["text"], before["sft"]["text"]),
    ):
        assert "recall" in then and set(now) == set(then) - {"recall"}
        assert sum(now.values()) == pytest.approx(sum(then.values()))
        assert now["code"] / now["web"] == pytest.approx(then["code"] / then["web"])


def test_what_each_arm_imitates(workspace: Path) -> None:
    recipe = read_recipe(workspace / "params.yaml")
    rows = {name: arm.dialogues(workspace, recipe) for name, arm in ARMS.items()}
    accepted = read_lines(workspace / "data/trajectories/accepted.jsonl")
    assert rows[FULL] == rows["no_replay"] == rows["no_copying"] == accepted
    assert rows["no_trajectories"] and all(map(is_heldout, rows["no_trajectories"]))
    unjudged = rows["judge_off"]
    assert len(unjudged) == len({row["task_id"] for row in unjudged}) == 60
    assert any(not row["verdict"]["passed"] for row in unjudged)
    closed = Counter(row["kind"] for row in rows["closed_values"])
    assert all(row["verdict"]["passed"] for row in rows["closed_values"]) and set(MIX) <= set(closed)
    assert ARMS["no_replay"].edit(recipe)["sft"]["text"] == {} != recipe["sft"]["text"]


def test_closed_values_come_from_short_lists() -> None:
    values, random = Closed(1), Random(1)
    for kind in ("person", "name", "phrase", "text", "code", "digits"):
        assert 5 < len({getattr(values, kind)(random) for _ in range(400)}) <= LIST


def test_an_unknown_arm_is_named(workspace: Path, tmp_path: Path) -> None:
    done = run(workspace, tmp_path, "no_coffee")
    assert done.exit_code == 2 and "no arm no_coffee" in done.output
