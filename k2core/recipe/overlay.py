"""A recipe that extends another one: its file holds only what differs.

`extends: laptop` names a recipe in the same folder. Mappings are merged key by key; any other value, a list too,
replaces the base's. `null` in place of a mapping of the base removes that mapping.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any
from unicodedata import normalize

from k2core.recipe.reading import RecipeError, read_yaml

EXTENDS = "extends"


def read_recipe(path: Path) -> dict[str, Any]:
    """The sections of the recipe at `path`, with all that it takes over from the recipes it extends.

    Raises:
        RecipeError: a file cannot be read, or a recipe extends one that does not exist or that extends it in turn.
    """
    return _whole(path, ())


def _whole(path: Path, above: tuple[str, ...]) -> dict[str, Any]:
    """Args: above: the recipes that extend this one, the outermost first."""
    own = read_yaml(path)
    if EXTENDS not in own:
        for key in (key for key, value in own.items() if isinstance(value, str) and _looks_like_extends(key)):
            advice = f"write {EXTENDS} in plain letters, with nothing before it"
            raise RecipeError(f"{path}: {key!a} is no key; {advice}")
        return own
    name, way = own.pop(EXTENDS), (*above, path.stem)
    base = path.parent / f"{name}.yaml"
    if not base.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml") if other != path))
        raise RecipeError(f"{path}: extends = {name!r}: no such recipe beside this file; there are: {there or 'none'}")
    if name in way:
        raise RecipeError(f"{path}: extends = {name!r}: a circle ({' → '.join((*way, name))}); one must extend nothing")
    return _merged(_whole(base, way), own)


def _looks_like_extends(key: str) -> bool:
    """Without it the recipe would lack every section: ``extend``, or one in wide letters or with a wide space."""
    return bool(get_close_matches(normalize("NFKC", key).lower(), [EXTENDS]))


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `own`, in the order of `base`."""
    merged = dict(base)
    for key, value in own.items():
        if not isinstance(base.get(key), dict):
            merged[key] = value
        elif value is None:
            del merged[key]
        else:
            merged[key] = _merged(base[key], value) if isinstance(value, dict) else value
    return merged
