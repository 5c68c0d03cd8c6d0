"""A recipe that extends another one has its values except for its own; a fault is a sentence about the right file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from workspace import ROOT

from k2core.recipe import RecipeError, read_recipe

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_mappings_merge_and_everything_else_replaces(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="a: {x: 1, deep: {y: 2, z: 3}, list: [1, 2]}\nb: {none: null, many: {k: 1}}\nc: {gone: {}, stays: 1}\n",
        own="extends: base\na: {deep: {z: 4, new: null}, list: [3]}\nb: {none: {k: 1}, many: 5}\nc: {gone: null}\n",
        child="extends: own\na: {x: 7}\n",
    )
    own = {
        "a": {"x": 1, "deep": {"y": 2, "z": 4, "new": None}, "list": [3]},
        "b": {"none": {"k": 1}, "many": 5},
        "c": {"stays": 1},
    }
    assert read_recipe(tmp_path / "own.yaml") == own
    assert read_recipe(tmp_path / "child.yaml") == own | {"a": own["a"] | {"x": 7}}
    assert list(read_recipe(tmp_path / "child.yaml")["a"]) == ["x", "deep", "list"], "the order of the base"


@pytest.mark.parametrize(("text", "sentence"), [
    ("extends: bass\n", r"own\.yaml: extends = 'bass': no such recipe beside this file; there are: base, bytes, twice"),
    ("extends: [base]\n", r"own\.yaml: extends = \['base'\]: no such recipe"),
    ("extends: own\n", r"own\.yaml: extends = 'own': a circle \(own → own\)"),
    ("extends: base\na: {x: 1, x: 2}\n", r"own\.yaml: not valid YAML: key x appears twice"),
    ("extends: base\nextends: twice\n", "key extends appears twice"),
    ("extends: twice\n", r"twice\.yaml: not valid YAML: key x appears twice"),
    ("extends: bytes\n", r"bytes\.yaml: not UTF-8 text"),
    ("\u3000extends: base\n", r"own\.yaml: '\\u3000extends' is no key; write extends in plain letters, with nothing"),
    ("\uff45\uff58\uff54\uff45\uff4e\uff44\uff53: base\na: {x: 2}\n", r"own\.yaml: '\\uff45.* is no key"),
    ("\u5168extends: base\n", r"own\.yaml: '\\u5168extends' is no key"),
    ("extend: base\n", r"own\.yaml: 'extend' is no key; write extends"),
    ("extends\uff1abase\n", r"own\.yaml: expected a mapping of sections \(`model: …`\), found text; is a colon"),
    ("- extends\n", "found a list"),
    ("", r"own\.yaml: nothing is in this file; run from the project's root or name another file"),
])  # fmt: skip
def test_a_fault_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    write(tmp_path, base="a: {x: 1}\n", twice="a: {x: 1, x: 2}\n", own=text)
    (tmp_path / "bytes.yaml").write_bytes("a: {x: ç}\n".encode("latin-1"))
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(tmp_path / "own.yaml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read \(Is a directory\); run from the project's root or"):
        read_recipe(tmp_path)


def test_a_byte_order_mark_is_no_part_of_extends(tmp_path: Path) -> None:
    write(tmp_path, base="a: {x: 1}\n", own="\ufeffextends: base\n")
    assert read_recipe(tmp_path / "own.yaml") == {"a": {"x": 1}}


def test_a_circle_of_two_is_named(tmp_path: Path) -> None:
    write(tmp_path, one="extends: two\n", two="extends: one\n")
    with pytest.raises(RecipeError, match=r"two\.yaml: extends = 'one': a circle \(one → two → one\)"):
        read_recipe(tmp_path / "one.yaml")


def test_a_new_key_of_the_base_is_inherited_by_all(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    base = tmp_path / "recipes" / "laptop.yaml"
    base.write_text(base.read_text().replace("rl:\n", "rl:\n  novelty: 3\n") + "\nroom: {size: 1}\n")
    for path in RECIPES:
        content = read_recipe(tmp_path / "recipes" / path.name)
        assert content["rl"]["novelty"] == 3 and content["room"] == {"size": 1}


def test_the_others_hold_nothing_that_the_base_has() -> None:
    """Mixtures are given whole, so one sees the sum of 1. The gate of micro is used three times through one anchor."""
    base = read_recipe(ROOT / "recipes" / "laptop.yaml")
    for path in RECIPES:
        own = yaml.safe_load(path.read_text())
        if own.pop("extends", None):
            assert _same(base, own) == [], path.stem


def _same(base: dict, own: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in own.items():
        if key in ("mixture", "gate"):
            continue
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            found += _same(base[key], value, f"{prefix}{key}.")
        elif key in base and base[key] == value:
            found.append(prefix + key)
    return found
