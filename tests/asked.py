"""What an experiment asks of a stage: its options and its recipe, checked as the stage would check them."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k2core.recipe import read_recipe, section_of
from k2core.stage.contract import sections_of


def asked(words: Sequence[str]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """The stage's name, its options, and its recipe, of a command `python -m stages.NAME --OPTION VALUE ...`."""
    name, options = words[2].removeprefix("stages."), dict(zip(words[3::2], words[4::2], strict=True))
    module = importlib.import_module(words[2])
    hints = typing.get_type_hints(module.run)
    wanted = {f"--{name}" for name in inspect.signature(module.run).parameters if hints[name] in (Path, str)}
    assert set(options) - {"--metrics"} == {*wanted, "--recipe"}
    recipe = read_recipe(Path(options["--recipe"]))
    for key, section in sections_of(module.run, module.SECTION).values():
        section_of(section, recipe, Path(), *key.format(phase=options.get("--phase")).split("."))
    for option in ("--init", "--tokens", "--trajectories", "--model", "--critic"):
        assert option not in options or Path(options[option]).exists(), option
    return name, options, recipe
