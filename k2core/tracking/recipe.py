"""What a pipeline run's recipe is: the file in `recipes/` that it comes from, and what was changed in it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2core.recipe import RecipeError, mask, read_recipe

ABSENT = "absent"
IN_A_NAME, MOST_OF_A_VALUE = 2, 40
"""Changes that a run's name gives, and most characters of a value in it."""


@dataclass(frozen=True)
class RecipeChange:
    """Name of the base recipe, and dotted key → (value there, value here) of every key that differs, as text."""

    base: str
    changed: dict[str, tuple[str, str]]

    @property
    def title(self) -> str:
        """One line, e.g. `laptop, rl.tau=0.2, +3 more`."""
        words = [shortly(key, here) for key, (_, here) in self.changed.items()]
        more = len(words) - IN_A_NAME
        return ", ".join([self.base, *words[:IN_A_NAME], *([f"+{more} more"] if more > 0 else [])])


def shortly(key: str, value: str) -> str:
    """A change of the recipe in a name: `rl.tau=0.2`, or `ingest.files changed` where the value is long."""
    return f"{key}={value}" if len(value) <= MOST_OF_A_VALUE else f"{key} changed"


def against_base(root: Path) -> RecipeChange:
    """`root/params.yaml` against the recipe in `root/recipes` from which it differs in the fewest keys."""
    here = _read(root / "params.yaml")
    if here is None:
        return RecipeChange("unreadable recipe", {})
    changes = []
    for path in sorted((root / "recipes").glob("*.yaml")):
        base = _read(path)
        if base is None:
            continue
        keys = [key for key in [*here, *(key for key in base if key not in here)] if here.get(key) != base.get(key)]
        changed = {key: (mask(str(base.get(key, ABSENT))), mask(str(here.get(key, ABSENT)))) for key in keys}
        changes.append(RecipeChange(path.stem, changed))
    return min(changes, key=lambda change: len(change.changed), default=RecipeChange("params.yaml", {}))


def stamp(content: dict[str, Any]) -> str:
    """The line of `params.yaml` that tells whether its values are still those that were written."""
    values = repr(sorted(flat(content).items()))
    return f"# Values as written: {hashlib.blake2b(values.encode(), digest_size=8).hexdigest()}"


def keep_aside(root: Path) -> None:
    """Before another recipe replaces `root/params.yaml`: keep a copy of values that are nowhere else.

    Those of a recipe are in `recipes/`. Values that are as they were written came from a recipe, which may have been
    edited since.
    """
    active = root / "params.yaml"
    text, here = active.read_bytes() if active.exists() else b"", _read(active)
    known = [_read(path) for path in (root / "recipes").glob("*.yaml")]
    if not text.strip() or (here is not None and (here in known or stamp(here).encode() in text)):
        return
    kept = root / "work" / "params-before.yaml"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(active, kept)
    print(f"params.yaml had changes of its own; it is kept as {kept.relative_to(root)}")


def _read(path: Path) -> dict[str, Any] | None:
    """None if it is not a recipe; whoever runs it will say so."""
    try:
        return flat(read_recipe(path))
    except RecipeError:
        return None


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists stay values."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, item in value.items()
        for key, leaf in flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }
