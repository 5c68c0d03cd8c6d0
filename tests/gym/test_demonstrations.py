"""Trajectories: disjoint splits by task, faults named; the pool's difficulty survives a resume."""

import json

import pytest
import torch
from micro import CharTokenizer, micro_config, micro_model

from k2core.gym.demonstrations import read_trajectories, split_trajectories
from k2core.gym.registry import select, text_environments
from k2core.inference.rollouts import Prompt
from k2core.rl import pool
from k2core.storage import StorageError


def trajectory(number, task):
    return {"id": str(number), "task_id": task, "tools": [], "messages": []}


def test_all_dialogues_about_a_task_are_in_one_split():
    trajectories = [trajectory(n, f"task-{n // 3}") for n in range(900)]
    train, heldout = (split_trajectories(trajectories, split) for split in ("train", "heldout"))
    assert len(train) + len(heldout) == 900
    assert not {t["task_id"] for t in train} & {t["task_id"] for t in heldout}
    assert 0.05 < len(heldout) / 900 < 0.16


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"task_id": 1\n', r"accepted\.jsonl:1: not JSON"), ('{"task_id": "1"}\n', "no tools, messages")],
)
def test_faults_are_named(tmp_path, text, message):
    (tmp_path / "accepted.jsonl").write_text(text)
    with pytest.raises(StorageError, match=message):
        read_trajectories(tmp_path / "accepted.jsonl")


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(StorageError, match=r"`dvc repro .*` makes it"):
        read_trajectories(tmp_path / "accepted.jsonl")


def test_pool_keeps_what_is_moderate_and_measures_only_once(tmp_path, monkeypatch):
    environments = text_environments()
    monkeypatch.setattr(pool, "prompt_of", lambda environment, item, tokenizer: Prompt((3, 4), 2, lambda text: 1.0))
    counts = select(environments, {"sort_numbers": 3, "pick_largest": 2}, "rl.pool")
    (tmp_path / "pool.json").write_text(json.dumps([0.0, 0.5, 1.0, 0.75, 0.25]))
    built = pool.build_pool(
        None, None, environments, counts, micro_config(lowest_rate=0.2, highest_rate=0.8), seed=0, scratch=tmp_path
    )
    assert built.curriculum.success == [0.5, 0.75, 0.25]
    assert built.dropped == 2 and len(built.prompts) == 3


def test_pool_measures_the_model(tmp_path, monkeypatch):
    torch.manual_seed(0)
    prompts = iter([Prompt((3, 4), 8, lambda text: 1.0), Prompt((3, 5), 8, lambda text: 0.0)])
    monkeypatch.setattr(pool, "prompt_of", lambda environment, item, tokenizer: next(prompts))
    pool.build_pool(
        micro_model(), CharTokenizer(), text_environments(), {"sort_numbers": 2}, micro_config(probe_samples=16),
        seed=0, scratch=tmp_path,
    )  # fmt: skip
    always, never = json.loads((tmp_path / "pool.json").read_text())
    assert always > 0.2
    assert never == 0.0
