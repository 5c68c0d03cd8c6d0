"""Tasksets of `verifiers`: their rewards, faults and hangs that are zeros, and what is refused.

The stand-in below has the names that the worker uses of verifiers 0.4. docs/rl.md has the check with the real package.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from k2core.chat.special_tokens import IM_END
from k2core.gym.named.verifiers import Verifiers, VerifiersSettings, Worker
from k2core.gym.registry import text_environments
from k2core.gym.settings import NO_DATA_SETS, GymConfig
from k2core.recipe import validate
from k2core.stage import StageError

STAND_IN = """
import importlib, sys, types
from types import SimpleNamespace
sys.modules["verifiers.v1"] = v1 = types.ModuleType("verifiers.v1"); v1.__path__ = []
class Data:
    def __init__(self, **given): self.__dict__.update({"system_prompt": None, "prompt": None} | given)
    def model_dump(self, mode): return dict(self.__dict__)
    @classmethod
    def model_construct(cls): return cls()
class Config:
    def __init__(self, **given): self.__dict__.update({"task": None} | given)
    @classmethod
    def model_validate(cls, given): return cls(**given)
class Task:
    NEEDS_CONTAINER = False
    def __init__(self, data, config=None): self.data = data
    async def setup(self): pass
    @classmethod
    def toolsets(cls, config): return []
    @classmethod
    def data_type(cls): return Data
    def hooks(self, kind): return [self.reward] if hasattr(self, "reward") else []
    async def score(self, trace): trace.reward = await self.reward(trace)
class Taskset:
    def __init__(self, config): self.config = config
    def __iter__(self): yield from self.load()
    @classmethod
    def toolsets(cls, config): return []
    @classmethod
    def task_type(cls): return cls.TASK
class SingleAgentEnv: pass
class Trace(SimpleNamespace):
    @property
    def last_reply(self): return [n.message.content for n in self.nodes if n.sampled][-1]
def message(role): return lambda content: SimpleNamespace(role=role, content=content)
def taskset_class(name): return importlib.import_module(name).TASKSET
def environment_class(name): return getattr(importlib.import_module(name), "ENVIRONMENT", SingleAgentEnv)
v1.Task, v1.Taskset, v1.TaskData = Task, Taskset, Data
for name, names in {
    "configs": {}, "envs": {}, "utils": {}, "configs.agent": {"AgentConfig": SimpleNamespace},
    "configs.taskset": {"TasksetConfig": Config}, "envs.single_agent": {"SingleAgentEnv": SingleAgentEnv},
    "task": {"Task": Task}, "graph": {"MessageNode": SimpleNamespace}, "state": {"state_cls": lambda task: dict},
    "trace": {"Trace": Trace, "TraceTask": SimpleNamespace, "AgentInfo": SimpleNamespace},
    "types": {f"{role.capitalize()}Message": message(role) for role in ("system", "user", "assistant")},
    "utils.generic": {"concrete_type": lambda cls, base: base},
    "utils.loaders": {"taskset_class": taskset_class, "environment_class": environment_class},
}.items():
    made = sys.modules["verifiers.v1." + name] = types.ModuleType(name); made.__path__ = []
    made.__dict__.update(names)
"""
DOUBLE = """
import os, time
import verifiers, verifiers.v1 as vf
class Double(vf.Task):
    async def reward(self, trace):
        print("a taskset that prints")
        reply = trace.last_reply
        if reply == "hang": time.sleep(60)
        if reply == "crash": os._exit(3)
        if reply == "raise": raise RuntimeError("no")
        return {"much": 7.0, "nan": float("nan"), "half": 0.5}.get(reply, float(reply == self.data.answer))
class Doubles(vf.Taskset):
    TASK = Double
    def load(self):
        for n in range(1000):
            system = getattr(self.config, "system", None)
            yield Double(vf.TaskData(prompt=f"Double {n}.", answer=str(2 * n), system_prompt=system))
TASKSET = Doubles
"""
UNFIT = {
    "with_tools": ("class Double(Double):\n    toolsets = classmethod(lambda cls, config: [1])", "it has tools"),
    "in_a_box": ("class Double(Double):\n    NEEDS_CONTAINER = True", "it needs a container"),
    "run_there": (
        "class Double(Double):\n    async def reward(self, trace, runtime): return 1.0",
        "its reward reward runs",
    ),
    "for_nothing": ("class Double(vf.Task): pass", "it has no reward"),
    "of_turns": ("class Played: pass\nENVIRONMENT = Played", "its environment Played plays several turns"),
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("packages")
    (folder / "verifiers").mkdir()
    (folder / "verifiers" / "__init__.py").write_text(STAND_IN)
    (folder / "double.py").write_text(DOUBLE)
    for name, (change, _) in UNFIT.items():
        (folder / f"{name}.py").write_text(f"{DOUBLE}\n{change}\nDoubles.TASK = Double\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        yield folder


def settings(**changes: Any) -> VerifiersSettings:
    given = {"python": "python", "id": "double", "config": {}, "tasks": 40, "gold": "{answer}", "max_new_tokens": 8,
             "timeout_s": 10.0}  # fmt: skip
    return VerifiersSettings(**(given | changes))


def made(**changes: Any) -> Verifiers:
    chosen = settings(**changes)
    return Verifiers("double", chosen, Worker("gym.verifiers.double", chosen))


def test_gold_passes_wrong_fails_and_faults_are_zeros(packages: Path) -> None:
    double = made(timeout_s=2.0)
    items = [double.item(0, split, n) for split in ("train", "heldout") for n in range(double.size(split))]
    assert len(items) == 40 and 2 <= double.size("heldout") <= 16
    assert all(double.score(item, item.gold["content"] + IM_END) == 1.0 for item in items)
    item = items[3]
    wrong = ["", "7", item.gold["content"] + "1", item.messages[-1]["content"], "raise", "nan", "hang", "crash",
             f"<|im_system|>{IM_END}{item.gold['content']}"]  # fmt: skip
    assert [double.score(item, reply + IM_END) for reply in wrong] == [0.0] * len(wrong)
    assert double.score(item, item.gold["content"]) == 1.0, "it is started again"
    assert double.score(item, "half") == 0.5 and double.score(item, "much") == 1.0
    twin = made()
    assert items == [twin.item(0, split, n) for split in ("train", "heldout") for n in range(twin.size(split))]


def test_a_taskset_has_its_config_and_no_gold_is_needed(packages: Path) -> None:
    item = made(config={"system": "Count."}, gold=None).item(0, "train", 0)
    assert item.messages[0] == {"role": "system", "content": "Count."} and item.gold["content"] == ""
    with pytest.raises(
        StageError, match=r"gym\.verifiers\.double\.gold = '\{right\}': 'right'; a task has system_prompt"
    ):
        made(gold="{right}").item(0, "train", 0)


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_more_than_a_reply_is_refused(packages: Path, name: str) -> None:
    with pytest.raises(
        StageError, match=rf"gym\.verifiers\.double\.id = '{name}': ValueError: {name}: {UNFIT[name][1]}"
    ):
        made(id=name).size("train")


def test_what_is_not_there_is_said(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"double\.id = 'absent': ModuleNotFoundError: No module named 'absent'"):
        made(id="absent").size("train")
    with pytest.raises(StageError, match=r"double\.python = '/nowhere/python': no interpreter"):
        made(python="/nowhere/python").size("train")
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(StageError, match=r"has no verifiers 0\.4; make a virtual environment"):
        made().size("train")


def test_the_recipe_names_it(packages: Path) -> None:
    gym = validate(GymConfig, NO_DATA_SETS.model_dump() | {"verifiers": {"twice": settings().model_dump()}}, "gym")
    twice = text_environments(gym)["twice"]
    assert twice.item(0, "train", 0).messages[-1]["content"].startswith("Double ")
