"""Which recipe a run uses: overrides keep comments, faults change nothing, own edits are kept aside."""

from __future__ import annotations

import pytest
import yaml
from workspace import ROOT, Workspace

from flows.choice import Choice
from flows.graph import read_graph
from flows.overrides import override
from k2core.recipe import RecipeError

RECIPE = (ROOT / "params.yaml").read_text(encoding="utf-8")


def comments(text: str) -> list[str]:
    return [line.partition("# ")[2] for line in text.splitlines() if "# " in line]


def test_an_override_changes_its_key_and_nothing_else() -> None:
    after = override(RECIPE, ["rl.tau=0.25", "ingest.files=[]", "tools.servers=[time]", "rl.pool.sort_numbers=7"])
    content = yaml.safe_load(after)
    expected = yaml.safe_load(RECIPE)
    expected["rl"]["tau"] = 0.25
    expected["tools"]["servers"] = ["time"]
    expected["rl"]["pool"]["sort_numbers"] = 7
    assert content == expected
    assert comments(after) == comments(RECIPE)
    assert list(content) == list(expected), "the order of sections"


def test_a_value_is_read_as_a_person_means_it() -> None:
    """PyYAML, which reads recipes, takes 1e-4 for a string and on for true."""
    after = yaml.safe_load(override(RECIPE, ["rl.tau=1e-4", "export.name=on", "model.rope_scaling=null"]))
    assert after["rl"]["tau"] == 1e-4
    assert after["export"]["name"] == "on"
    assert after["model"]["rope_scaling"] is None


@pytest.mark.parametrize(("change", "sentence"), [
    ("rl.tau", "is not a change of the recipe; write key=value"),
    ("rll.tau=1", "no key rll; there are: compute, limits"),
    ("rl.tau.deep=1", "rl.tau has no keys, its value is 0.1"),
    ("rl.tau=[", "the value is not valid YAML"),
])  # fmt: skip
def test_a_bad_override_is_a_sentence(change: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence.replace("[", r"\[")):
        override(RECIPE, [change])


def test_a_choice_that_is_not_valid_changes_nothing(toy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", toy.env["PATH"])
    recipe = toy.root / "params.yaml"
    before = recipe.read_text()
    with pytest.raises(ValueError, match=r"count\.steps = 0: input should be greater than or equal to 1"):
        Choice(overrides=("count.steps=0",)).apply(toy.root)
    assert recipe.read_text() == before
    Choice(overrides=("count.steps=9",)).apply(toy.root)
    assert yaml.safe_load(recipe.read_text())["count"]["steps"] == 9
    Choice(recipe="toy").apply(toy.root)
    assert yaml.safe_load(recipe.read_text()) == yaml.safe_load(before)
    assert "  steps: 5              # how far to count\n" in recipe.read_text()
    assert yaml.safe_load((toy.root / "work" / "params-before.yaml").read_text())["count"]["steps"] == 9
    recipe.unlink()
    for changes in ((), ("count.steps=9",)):
        with pytest.raises(RecipeError, match=r"^params\.yaml: no such file; `make recipe NAME=laptop` writes it anew"):
            Choice(overrides=changes).apply(toy.root)
    Choice(recipe="toy").apply(toy.root)
    assert yaml.safe_load(recipe.read_text()) == yaml.safe_load(before)


def test_a_section_that_a_command_needs_is_named(toy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC would say only that it cannot parse the command."""
    monkeypatch.setenv("PATH", toy.env["PATH"])
    toy.edit("dvc.yaml", "--name source", "--name ${count.steps}")
    content = yaml.safe_load((toy.root / "params.yaml").read_text())
    del content["count"]
    (toy.root / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit, match="the chosen recipe cannot be used: count: missing section"):
        read_graph(toy.root)
