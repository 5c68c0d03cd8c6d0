"""Changes to a recipe given as `key=value`, as a command line or a form has them."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import Any

from k2core.recipe.section import RecipeError


NULL = "tag:yaml.org,2002:null"


def override(recipe: str, changes: Iterable[str]) -> str:
    """`recipe` (YAML text) with each change applied; comments and the order of keys stay.

    Args:
        changes: e.g. ``rl.tau=0.2`` or ``ingest.files=[]``. The key is dotted, the value is YAML.

    Raises:
        RecipeError: a change is not `key=value`, its value is not YAML, or the section it names does not exist.
            Whether a section has the key, and takes the value, is for ``python -m stages check`` to say.
    """
    from ruamel.yaml import YAML, YAMLError

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    document: Any = yaml.load(recipe)
    for change in changes:
        key, equals, value = (part.strip() for part in change.partition("="))
        if not equals or not key:
            raise RecipeError(f"{change!r} is no change of the recipe; write key=value, e.g. rl.tau=0.2")
        *parents, last = key.split(".")
        node = document
        for depth, parent in enumerate(parents):
            if not isinstance(node, dict) or parent not in node:
                known = ", ".join(map(str, node)) if isinstance(node, dict) else repr(node)
                raise RecipeError(f"{change}: no key {'.'.join(parents[: depth + 1])}; there are: {known}")
            node = node[parent]
        if not isinstance(node, dict):
            raise RecipeError(f"{change}: {'.'.join(parents)} has no keys, its value is {node!r}")
        try:
            node[last] = yaml.load(value) if value else ""
        except YAMLError as error:
            raise RecipeError(f"{change}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()
