"""Which recipe a run uses: one of `recipes/`, or the active one, with changes given as `key=value`."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from flows.overrides import override
from k2core.storage import write_text

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
        """Write the chosen recipe to `params.yaml`, if it is valid; edits that stand in no recipe file are kept aside.

        Raises:
            ValueError: the choice is not a valid recipe; `params.yaml` is as it was.
        """
        if not self.recipe and not self.overrides:
            return
        active = root / ACTIVE
        known = {path.read_text() for path in (root / "recipes").glob("*.yaml")}
        before = active.read_text()
        chosen = (root / "recipes" / f"{self.recipe}.yaml").read_text() if self.recipe else before
        text = override(chosen, self.overrides)
        if text == before:
            return
        candidate = root / "work" / "chosen.yaml"
        write_text(candidate, text)
        check_recipe(root, candidate)
        if self.recipe and before not in known:
            write_text(root / "work" / "params-before.yaml", before)
            print("params.yaml had changes of its own; it is kept as work/params-before.yaml")
        os.replace(candidate, active)


def check_recipe(root: Path, recipe: Path) -> None:
    """Raise ValueError with what ``python -m stages check`` says of a recipe, in one line, unless it is valid."""
    name = str(recipe.relative_to(root))
    words = [sys.executable, "-m", "stages", "check", name]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        faults = "; ".join(line.removeprefix(f"{name}: ") for line in done.stderr.splitlines())
        raise ValueError(f"the chosen recipe cannot be used: {faults}")
