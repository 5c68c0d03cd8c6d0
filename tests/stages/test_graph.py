"""dvc.yaml, params.yaml, the recipes and the stage modules say the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workspace import ROOT

from k2core.stage import OUTPUTS
from stages.checks import recipe_faults
from stages.closure import closure, rewrite, stage_module

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
HEAVY = (
    "torch", "transformers", "pyarrow", "datatrove", "openai", "mlflow", "prefect", "numpy", "plotly", "mcp",
    "reasoning_gym",
)  # fmt: skip
BODIES = {name: stage.get("do", stage) for name, stage in GRAPH.items()}


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def names(entries: list) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize(
    "recipe", [Path("params.yaml"), *sorted((ROOT / "recipes").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert recipe_faults(recipe) == []


def test_a_recipe_with_faults_names_each(tmp_path: Path) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["compute"]["threads"] = 0
    content["nonsense"] = {}
    del content["curate"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    faults = "\n".join(recipe_faults(tmp_path / "r.yaml"))
    for part in ("compute.threads = 0", "nonsense: no stage reads", "curate: missing section"):
        assert part in faults


def test_code_dependencies_are_the_import_closure() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert rewrite(text, ROOT) == text, "run `make deps`"


def test_bringing_them_up_to_date_leaves_all_else(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/x.py").write_text("i = 1")
    before = """stages:
  x:
    cmd: python -m stages.x
    deps:
      - data
      - k2core/gone.py

  # The next room
  y:
    cmd: python -m stages.x
"""
    after = before.replace("k2core/gone.py", "stages/x.py") + "    deps:\n      - stages/x.py\n"
    assert rewrite(before, tmp_path) == after
    assert rewrite(after, tmp_path) == after


def lay(root: Path, files: dict[str, str]) -> None:
    """Write a tree of files."""
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)


@pytest.mark.parametrize("stage", BODIES)
def test_params_in_the_graph_are_what_the_stage_reads(stage: str) -> None:
    module = stage_module(BODIES[stage]["cmd"])
    __import__(module)
    from k2core.stage import sections_of

    sections = sections_of(sys.modules[module].run, sys.modules[module].SECTION).values()
    reads = {key for key, cls in sections if cls.TRACKED}
    reads = {key.split("{")[0].rstrip(".") for key in reads}
    declared = {param.split(".$")[0] for param in BODIES[stage]["params"]}
    assert declared == reads


@pytest.mark.parametrize("stage", BODIES)
def test_every_path_of_a_command_is_declared(stage: str) -> None:
    body = BODIES[stage]
    options = dict(re.findall(r"--(\w+) (\S+)", body["cmd"]))
    outs = set(names(body.get("outs", []))) | set(names(body.get("metrics", [])))
    paths = {value for key, value in options.items() if "/" in value or value in outs or "item.init" in value}
    deps = {dep for dep in body.get("deps", []) if not dep.startswith(("k2core/", "stages/"))}
    assert paths - outs <= deps | {"metrics", "plots"}
    assert outs <= paths
    assert {options[name] for name in OUTPUTS if name in options} <= outs


def test_the_closure_follows_imports_inside_functions(tmp_path: Path) -> None:
    lay(tmp_path, {
        "k2core/__init__.py": "", "k2core/a.py": "def f():\n    from k2core.b import g\n", "k2core/b.py": "g = 1",
        "k2core/c.py": "h = 1", "stages/__init__.py": "", "stages/x.py": "import k2core.a\n", "stages/y.py": "i = 1",
        "k2core/words.yaml": "", "k2core/d.py": "open('words.yaml')",
    })  # fmt: skip
    assert closure("stages.x", tmp_path) == ["k2core/a.py", "k2core/b.py", "stages/x.py"]
    (tmp_path / "k2core/b.py").write_text("from k2core import d")
    assert closure("stages.x", tmp_path) == [
        "k2core/a.py", "k2core/b.py", "k2core/d.py", "k2core/words.yaml", "stages/x.py",
    ]  # fmt: skip


def test_a_folder_stands_for_its_files_where_half_are_used(tmp_path: Path) -> None:
    lay(tmp_path, {
        "k2core/c.py": "h = 1", "k2core/room/__init__.py": '"""A room."""\n', "k2core/room/b.py": "g = 1",
        "k2core/room/a.py": "import k2core.room.b", "stages/x.py": "import k2core.room.a\n", "stages/y.py": "i = 1",
    })  # fmt: skip
    assert closure("stages.x", tmp_path) == ["k2core/room", "stages/x.py"]
    for number in range(3):
        (tmp_path / f"k2core/room/other{number}.txt").write_text("not read")
    assert closure("stages.x", tmp_path) == ["k2core/room/a.py", "k2core/room/b.py", "stages/x.py"]


def test_every_file_of_a_registry_is_a_dependency(tmp_path: Path) -> None:
    lay(tmp_path, {
        "k2core/kinds/__init__.py": "", "k2core/kinds/one.py": "import k2core.helper", "k2core/helper.py": "i = 1",
        "k2core/c.py": "h = 1", "stages/x.py": "found = modules_in('k2core.kinds')\n", "stages/y.py": "i = 1",
    })  # fmt: skip
    assert closure("stages.x", tmp_path) == ["k2core/helper.py", "k2core/kinds/one.py", "stages/x.py"]


@pytest.mark.parametrize("stage", ["stages.sources", *sorted({stage_module(body["cmd"]) for body in BODIES.values()})])
def test_help_imports_nothing_heavy(stage: str) -> None:
    """`--help` answers in about 0.3 s as long as a stage's module imports none of these (a timed test would flake)."""
    code = (
        f"import runpy, sys; sys.argv = ['{stage}', '--help']\ntry: runpy.run_module('{stage}', run_name='__main__')\n"
    )
    code += f"finally: print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--out" in done.stdout
    assert "heavy: []" in done.stdout, done.stdout.splitlines()[-1]


def test_a_data_file_belongs_to_the_source_that_names_it_or_reads_all_of_its_kind(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {
            "stages/x.py": "import k2core.one.read, k2core.two.read, k2core.three.read",
            "k2core/one/read.py": "f = 'a.yaml'",
            "k2core/two/read.py": "for path in folder.glob('*.yaml'): ...".replace("'", '"'),
            "k2core/three/read.py": "i = 1",
        }
        | {f"k2core/{room}/{name}.yaml": "i: 1" for room in ("one", "two", "three") for name in ("a", "b", "c", "d")},
    )
    found = closure("stages.x", tmp_path)
    assert "k2core/one/a.yaml" in found and "k2core/two" in found
    assert not [path for path in found if path.endswith("b.yaml") or path.startswith("k2core/three/a")]
