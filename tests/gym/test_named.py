"""Each environment that the recipe names goes into the pool, to a rollout, to its reward; `check` accepts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import micro_config, micro_model
from scripted_judge import model_server
from test_harbor import KINDS, UPPER, write_task
from test_safety import Roles
from test_verifiers import DOUBLE, STAND_IN
from typer.testing import CliRunner
from workspace import ROOT

from k2core.chat.tokenizer import Tokenizer
from k2core.gym.__main__ import app
from k2core.gym.demonstrations import encode_gym
from k2core.gym.judging import Models
from k2core.gym.prompts import prompt_of
from k2core.gym.registry import select, text_environments
from k2core.gym.settings import GymConfig
from k2core.inference import responder, rollouts
from k2core.inference.completion import Completion
from k2core.recipe import validate
from k2core.rl.pool import build_pool
from k2core.sandbox.backends import missing
from stages.checks import recipe_faults

TOKENIZER = Tokenizer.train([f"{UPPER} write the words and answer from this text alone, if it does not say"], 280)
POOL = {"short": 6, "long": 2, "near": 3, "safe": 2, "twice": 3} | ({} if missing() else {"shell": 1})


def recipe(folder: Path, llm: dict[str, Any]) -> dict[str, Any]:
    """Section `gym` with one of each kind; those of others lie in `folder`."""
    return {
        "llm": llm, "reasoning_gym": {},
        "instructions": {
            "short": {"max_new_tokens": 24, "reply": "words", "most": 1, "kinds": [], "judge": None},
            "long": {"max_new_tokens": 192, "reply": "text", "most": 3, "kinds": [], "judge": None},
        },
        "faithfulness": {"near": {"max_new_tokens": 64, "around": 3, "judge": None}},
        "verifiers": {"twice": {"python": "python", "id": "double", "config": {}, "tasks": 30, "gold": "{answer}",
                                "max_new_tokens": 8, "timeout_s": 10.0}},
        "harbor": {"shell": {"folder": str(folder / "tasks"), "max_new_tokens": 64, "turns": 1, "timeout_s": 8.0}},
        "safety": {"safe": {"max_new_tokens": 64, "rounds": 1, "harmless": 0.5, "target": None}},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "verifiers").mkdir()
    (tmp_path / "verifiers" / "__init__.py").write_text(STAND_IN)
    (tmp_path / "double.py").write_text(DOUBLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write_task(tmp_path / "tasks" / "upper", KINDS["by a script"])  # by its name it is among the training items
    return tmp_path


def test_each_goes_from_the_pool_to_its_reward(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy gives the right reply to every other sample, and none to the rest."""
    right: dict[tuple[int, ...], str] = {}

    def generate(model: Any, prompts: Sequence[Sequence[int]], *, streams: Sequence[str], **_: Any) -> list[Completion]:
        pairs = zip(prompts, streams, strict=True)
        said = [right[tuple(prompt)] if int(stream.rpartition("/")[2]) % 2 else "." for prompt, stream in pairs]
        made = [[*TOKENIZER.encode(text), TOKENIZER.im_end_id] for text in said]
        return [Completion(tokens, [-1.0] * len(tokens), "stop") for tokens in made]

    monkeypatch.setattr(responder, "generate", generate)
    with model_server(Roles()) as config:
        gym = validate(GymConfig, recipe(folder, config.model_dump()), "recipe: gym")
        environments = text_environments(gym, Models(gym.llm, answers=folder / "answers.sqlite"))
        for name, count in POOL.items():
            for index in range(count):
                item = environments[name].item(0, "train", index)
                right[prompt_of(environments[name], item, TOKENIZER).tokens] = item.gold["content"]
        built = build_pool(
            micro_model(), TOKENIZER, environments, select(environments, POOL, "rl.pool"),
            micro_config(context=4096, lowest_rate=0.2, highest_rate=0.8), seed=0, scratch=folder,
        )  # fmt: skip
        assert built.dropped == 0 and len(built.prompts) == sum(POOL.values())
        assert set(built.curriculum.success) == {0.5}
        groups = rollouts.sample(
            micro_model(),
            TOKENIZER,
            built.prompts,
            samples=4,
            temperature=1.0,
            seed=0,
            overlong_reward=0.0,
            context=4096,
        )
        assert [[each.reward for each in group] for group in groups] == [[0.0, 1.0, 0.0, 1.0]] * len(groups)
        shown = encode_gym(TOKENIZER, environments, POOL, "train", 0)
        assert len(shown) == sum(POOL.values()) and all(sum(each.mask) > 1 for each in shown)


def test_check_accepts_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    embedded = content["llm"] | {"base_url": "embedded"}
    content["gym"] = recipe(folder, embedded)
    content["rl"]["pool"] |= POOL
    content["sft"]["demonstrations"] |= POOL
    for name in ("dvc.yaml", "params.yaml", "recipes", "styles", "declarations"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "own.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(folder)
    assert recipe_faults(folder / "own.yaml") == []
    content["gym"]["llm"] = None
    (folder / "own.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    assert "safety.safe asks a model to judge" in "\n".join(recipe_faults(folder / "own.yaml"))


def test_an_environment_is_shown() -> None:
    shown = CliRunner().invoke(app, [str(ROOT / "params.yaml"), "sort_numbers", "--items", "1"])
    assert shown.exit_code == 0 and "Sort: " in shown.output
    assert "the right reply: mean reward 1.000 of 64" in shown.output and "none: mean reward 0.000" in shown.output
    wrong = CliRunner().invoke(app, [str(ROOT / "params.yaml"), "chess"])
    assert wrong.exit_code == 1 and "no environment chess; there are count_letters" in wrong.output
