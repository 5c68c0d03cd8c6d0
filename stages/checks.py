"""What is wrong with a recipe, before anything runs: each section by itself, then the sections together.

A section is checked against the class with which a stage reads it. What a stage needs of the rest of the recipe is in
`stages/needs/`, one file per stage: its functions take sections by name, like `run`, and yield a sentence per fault.
They are not in the stages' own files, so that a check that changes re-runs no stage.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from k2core.recipe import Limits, RecipeError, Section, did_you_mean, mask, modules_in, read_recipe, validate
from k2core.recipe.reading import read_yaml
from k2core.stage import sections_of
from stages.closure import stage_module

GRAPH = Path("dvc.yaml")


def recipe_faults(recipe: Path) -> list[str]:
    """One sentence for each key of `recipe` that no stage can use, or that lacks what it needs elsewhere."""
    try:
        content = read_recipe(recipe)
    except RecipeError as error:
        return mask(str(error)).splitlines()
    faults: list[str] = []
    valid: dict[str, Section] = {}
    declared = declared_sections()
    for key, cls in declared.items():
        node: Any = content
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            faults.append(f"{recipe}: {key}: missing section")
            continue
        try:
            valid[key] = validate(cls, node, f"{recipe}: {key}")
        except RecipeError as error:
            faults += str(error).splitlines()
    used = list(dict.fromkeys(key.split(".")[0] for key in declared))
    for key in (key for key in content if key not in used):
        hint = did_you_mean(key, used)
        faults.append(f"{recipe}: {key}: no stage reads this section{hint}; there are: {', '.join(used)}")
    for need in all_needs():
        sections = {name: valid.get(key) for name, (key, _) in sections_of(need, "").items()}
        if None not in sections.values():
            faults += [f"{recipe}: {fault}" for fault in need(**sections)]
    return [mask(fault) for fault in dict.fromkeys(faults)]


def all_needs() -> list[Callable[..., Iterator[str]]]:
    """The generators of the files in `stages/needs/`."""
    found = []
    for module in modules_in("stages.needs").values():
        generators = (value for _, value in inspect.getmembers(module, inspect.isgeneratorfunction))
        found += [value for value in generators if value.__module__ == module.__name__]
    return found


def declared_sections() -> dict[str, type[Section]]:
    """Dotted section of the recipe → the class that checks it, over all stages of the graph."""
    sections: dict[str, type[Section]] = {"limits": Limits}  # which the flow reads
    for stage in read_yaml(GRAPH)["stages"].values():
        body = stage.get("do", stage)
        module = importlib.import_module(stage_module(body["cmd"]))
        items = stage.get("foreach", [None])
        for key, cls in sections_of(module.run, module.SECTION).values():
            names = [key.split("{")[0] + item for item in items] if "{" in key else [key]
            sections |= dict.fromkeys(names, cls)
    return sections
