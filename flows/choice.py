"""Which recipe a run uses: one of `recipes/`, or the active one, with changes given as `key=value`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.overrides import override
from k2core.recipe import RecipeError, read_recipe
from k2core.storage import write_text
from k2core.tracking.recipe import keep_aside

ACTIVE = "params.yaml"


def recipe_names(root: Path) -> list[str]:
    """The recipes that can be chosen."""
    return sorted(path.stem for path in (root / "recipes").glob("*.yaml"))


@dataclass(frozen=True)
class Choice:
    """A recipe's name (None: the active one stays) and changes of it."""

    recipe: str | None = None
    overrides: tuple[str, ...] = ()

    def apply(self, root: Path) -> None:
        """Write the chosen recipe to `params.yaml`, if it is valid; values found in no recipe are kept aside.

        Raises:
            ValueError: the choice is not a valid recipe, or there is none; `params.yaml` is as it was.
        """
        active = root / ACTIVE
        if not self.recipe:
            try:
                read_recipe(active)
            except RecipeError as error:  # DVC's words for it are about something else
                raise RecipeError(str(error).removeprefix(f"{root}/")) from None
        if not self.recipe and not self.overrides:
            return
        before = active.read_text(encoding="utf-8") if active.exists() else ""
        text = override(_stages(root, "show", self.recipe) if self.recipe else before, self.overrides)
        if text == before:
            return
        candidate = root / "work" / "chosen.yaml"
        write_text(candidate, text)
        try:
            check_recipe(root, candidate)
            if self.recipe:
                keep_aside(root)
            os.replace(candidate, active)
        finally:
            candidate.unlink(missing_ok=True)  # what was refused may hold a password


def check_recipe(root: Path, recipe: Path) -> None:
    """Raise ValueError with what ``python -m stages check`` says of a recipe, in one line, unless it is valid."""
    _stages(root, "check", str(recipe.relative_to(root)))


def _stages(root: Path, command: str, recipe: str) -> str:
    """What ``python -m stages`` prints. It is a process of its own: it imports every stage, as they are now."""
    words = [sys.executable, "-m", "stages", command, recipe]
    utf8 = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(words, cwd=root, env=utf8, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        faults = "; ".join(line.removeprefix(f"{recipe}: ") for line in done.stderr.splitlines())
        raise ValueError(f"the chosen recipe cannot be used: {faults}")
    return done.stdout
