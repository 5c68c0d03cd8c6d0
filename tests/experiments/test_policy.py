"""The RL experiment: that every arm is a recipe the stage takes, what is compared, that nothing is trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from asked import asked
from micro import micro_model
from typer.testing import CliRunner

from experiments import ablations, policy
from experiments.policy_arms import ARMS
from experiments.variants import FULL
from k2core.model.files import load_model, save_model
from k2core.recipe import read_recipe
from k2core.storage import write_json

ROOT = Path(__file__).parents[2]
ITEMS = 20


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What the arms read of a finished workspace, the models made of a few weights."""
    folder = tmp_path / "workspace"
    for name in policy.INPUTS:
        (folder / name).mkdir(parents=True)
    save_model(micro_model(), folder / "models/critic")
    (folder / "params.yaml").write_text(yaml.safe_dump(read_recipe(ROOT / "recipes/laptop.yaml"), sort_keys=False))
    return folder


class Stages:
    """In the stages' place: checks what a stage is given, and writes scores that tell the arm and the seed."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.recipes: dict[str, dict[str, Any]] = {}
        self.critics: dict[str, str] = {}
        self.fails = ""

    def __call__(self, words: list[str], cwd: Path, **_: Any) -> Any:
        name, options, recipe = asked(words)
        out = Path(options["--out"])
        self.ran.append(f"{name} {cwd.parent.name}/{cwd.name}")
        if self.fails == self.ran[-1]:
            return SimpleNamespace(returncode=1)
        out.mkdir()
        if name == "rl":
            self.recipes[cwd.parent.name], self.critics[cwd.parent.name] = recipe, options["--critic"]
            Path(options["--plot"]).write_text("step,critique/on\n2,0\n4,\n6,1\n")
            figures = {"train/entropy_first": 0.5, "train/entropy_last": 0.25, "train/success_first": 0.5}
            write_json(Path(options["--metrics"]), figures | {"train/success_last": 0.96})
        else:
            assert recipe["compute"]["seed"] == read_recipe(ROOT / "recipes/laptop.yaml")["compute"]["seed"]
            arm = "sft" if cwd.name == "sft" else cwd.parent.name
            rate = {"sft": 0.25, "grpo": 0.5}.get(arm, 1.0)
            items = {policy.TASKS: {"a": [rate] * ITEMS, "b": [0.0] * ITEMS}, policy.SCHEMA: {"b": [1.0] * ITEMS}}
            write_json(out / "items.json", items | {policy.WHOLE: {"x": [rate] * 3, "y": [0.0]}})
            write_json(out / "scorecard.json", {"scores": {ablations.BITS: {"value": 2.0 + rate}}})
        return SimpleNamespace(returncode=0)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stages = Stages()
    monkeypatch.setattr(ablations, "subprocess", SimpleNamespace(run=stages))
    return stages


def run(workspace: Path, *words: str) -> Any:
    tmp_path = workspace.parent
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- policy:begin -->\n<!-- policy:end -->\n")
    places = ["--workspace", workspace, "--work", tmp_path / "work", "--results", tmp_path / "r.json", "--page", page]
    return CliRunner().invoke(policy.app, [*words, *map(str, places)])


def test_gains_over_the_sft_model_and_nothing_trained_twice(workspace: Path, stages: Stages) -> None:
    stages.fails = "rl full/seed-2"
    failed = run(workspace, "grpo", "--seeds", "2")
    assert failed.exit_code == 1 and "ended with status 1; the same command goes on there" in failed.output
    before = ["evaluate " + stages.ran[0].split()[1], "rl full/seed-1", "evaluate full/seed-1"]
    assert stages.ran == [*before, "rl full/seed-2"] and stages.ran[0].endswith("/sft")
    stages.ran, stages.fails = [], ""
    assert run(workspace, "grpo", "--seeds", "2").exit_code == 0
    assert stages.ran == ["rl full/seed-2", "evaluate full/seed-2", "rl grpo/seed-1", "evaluate grpo/seed-1"]
    assert (stages.recipes["full"]["compute"]["seed"], stages.recipes["grpo"]["compute"]["seed"]) == (2, 1)
    found = json.loads((workspace.parent / "r.json").read_text())
    assert found["pass@1"]["a"]["grpo - sft"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert found["pass@4"]["a"]["grpo - sft"]["value"] == 0.0, "one sample of some passes, before and after"
    dialogues = found["pass@1"]["tool_dialogue"]["full - sft"]
    assert dialogues["value"] == pytest.approx(0.75 * 3 / 4) and dialogues["low"] < dialogues["high"]
    assert found["bits"] == {"sft": [2.25], "full": [3.0, 3.0], "grpo": [2.5]}
    assert found["on"]["full"] == [0.5, 0.5]
    said = (workspace.parent / "page.md").read_text()
    assert "| `grpo` | +0.250 (+0.250 to +0.250) | +0.000 (+0.000 to +0.000) |" in said
    assert "| 2.500 | 0.500 → 0.250 | 0.500 → 0.960 | none → none | 50% |" in said


def test_every_arm_is_a_recipe_that_the_stage_takes_and_differs(workspace: Path, stages: Stages) -> None:
    assert run(workspace).exit_code == 0
    assert set(stages.recipes) == set(ARMS)
    settings = [json.dumps([stages.recipes[arm]["rl"], stages.critics[arm]], sort_keys=True) for arm in ARMS]
    assert len(set(settings)) == len(ARMS)
    assert stages.recipes[FULL]["rl"] == read_recipe(workspace / "params.yaml")["rl"]


def test_the_broken_critic_has_another_head_and_nothing_else(workspace: Path, stages: Stages) -> None:
    assert run(workspace, "broken_critic").exit_code == 0
    broken, whole = (load_model(Path(stages.critics[arm])).state_dict() for arm in ("broken_critic", FULL))
    differing = [name for name, weight in whole.items() if not torch.equal(weight, broken[name])]
    assert differing == ["lm_head.weight"]
    assert broken["lm_head.weight"].std() == pytest.approx(float(whole["lm_head.weight"].std()), rel=0.1)


def test_an_unknown_arm_is_named(workspace: Path) -> None:
    done = run(workspace, "no_coffee")
    assert done.exit_code == 2 and "no arm no_coffee" in done.output
