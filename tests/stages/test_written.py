"""`params.yaml` is what `use` writes: every value of the recipe, each key with its field's description."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from workspace import ROOT

from k2core.recipe import read_recipe
from k2core.tracking.holding import hold
from stages.__main__ import app
from stages.checks import declared_sections
from stages.written import WIDTH, written

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def text_of(name: str) -> str:
    return written(name, read_recipe(ROOT / "recipes" / f"{name}.yaml"), declared_sections())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_text_has_the_values_of_the_recipe_in_their_order(recipe: Path) -> None:
    text = text_of(recipe.stem)
    assert json.dumps(yaml.safe_load(text)) == json.dumps(read_recipe(recipe))
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


def test_params_is_the_laptop_recipe_as_use_writes_it() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == text_of("laptop"), "run `make recipe NAME=laptop`"


def test_every_field_is_described() -> None:
    said = " ".join(word for word in text_of("laptop").split() if word != "#")
    for name, cls in declared_sections().items():
        for key, field in cls.model_fields.items():
            assert field.description and field.description in said, f"{name}.{key}"


def test_a_description_stands_at_its_key() -> None:
    lines = text_of("k2").splitlines()

    def about(key: str, *after: str) -> str:
        """The comment beside the key, or right above it; `after` are lines that come before it, in order."""
        place = 0
        for line in after:
            place = next(n for n in range(place, len(lines)) if lines[n].startswith(line))
        found = next(n for n in range(place, len(lines)) if lines[n].strip().removeprefix("- ").startswith(f"{key}: "))
        beside = lines[found].partition("# ")[2]
        return beside or lines[found - 1].strip()

    assert about("hidden_size", "model:") == "width of the residual stream"
    assert about("pool", "rl:") == "# training items of each environment that the curriculum draws from"
    assert about("lr_end", "pretrain:", "  long:", "    schedule:") == "multiplier at the last step"
    assert about("path", "ingest:", "  files:").startswith("# file, pattern")
    assert about("name", "ingest:", "  files:") == "the source's name in tables, ids and figures"
    assert about("roles", "rephrase:", "    math:").startswith("least likeness of contexts")
    place = lines.index("# Supervised fine-tuning in K2's chat format, loss on assistant tokens (K2 §3.1).")
    assert lines[place + 1] == "sft:"
    place = next(n for n, line in enumerate(lines) if line.startswith("  rewrites:"))
    assert lines[place + 1].startswith("    # documents: documents to rewrite"), "said once above short entries"


def test_use_and_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    for name in ("dvc.yaml", "recipes", "styles", "declarations"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert runner.invoke(app, ["use", "evening"]).exit_code == 0
    assert Path("params.yaml").read_text() == text_of("evening")
    assert runner.invoke(app, ["show", "evening"]).stdout == text_of("evening")
    assert not Path("work/params-before.yaml").exists()

    Path("params.yaml").write_text(text_of("evening").replace("tau: 0.1", "tau: 0.7"))
    done = runner.invoke(app, ["use", "laptop"])
    assert "kept as work/params-before.yaml" in done.stdout
    assert "tau: 0.7" in Path("work/params-before.yaml").read_text()

    Path("params.yaml").write_text("")
    assert "changes of its own" not in runner.invoke(app, ["use", "laptop"]).stdout, "an empty file has none"

    before = Path("params.yaml").read_text()
    with hold(tmp_path, {"doing": "a run"}):
        assert "held by another" in runner.invoke(app, ["use", "laptop"]).output
        done = runner.invoke(app, ["use", "evenign"])
    assert done.exit_code == 1 and "no recipe evenign; there are: evening, gpu, k2, laptop, micro" in done.output
    assert Path("params.yaml").read_text() == before


def test_an_edited_recipe_is_no_change_of_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the values that were written, though no recipe has them any more."""
    from typer.testing import CliRunner

    for name in ("dvc.yaml", "styles", "declarations"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    runner, recipe, params = CliRunner(), Path("recipes/laptop.yaml"), Path("params.yaml")

    def edit_and_use(file: Path, before: str, after: str) -> str:
        file.write_text(file.read_text().replace(f"tau: {before}", f"tau: {after}"))
        return runner.invoke(app, ["use", "laptop"]).stdout

    runner.invoke(app, ["use", "laptop"])
    assert "changes of its own" not in edit_and_use(recipe, "0.1", "0.2")
    assert "tau: 0.2" in params.read_text() and not Path("work/params-before.yaml").exists()
    assert "kept as work/params-before.yaml" in edit_and_use(params, "0.2", "0.3")
    assert "tau: 0.3" in Path("work/params-before.yaml").read_text() and "tau: 0.2" in params.read_text()
