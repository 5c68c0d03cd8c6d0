"""Changes to a recipe given as `key=value`, as a command line or a form has them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import StringIO
from typing import Annotated, Any

import yaml as pyyaml
from pydantic import WithJsonSchema

from k2core.recipe import RecipeError, mask

Change = Annotated[str, WithJsonSchema({"type": "string", "not": {"pattern": r"://[^\s/?#]*@"}})]
"""An override in the page's form. Prefect's server refuses one with a password, which it would store with the run."""
NULL, FLOAT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:float"


def override(recipe: str, changes: Iterable[str]) -> str:
    """`recipe` (YAML text) with each change applied; comments and the order of keys stay.

    Args:
        changes: e.g. ``rl.tau=0.2`` or ``ingest.files=[]``. The key is dotted, the value is YAML.

    Raises:
        RecipeError: a change is not `key=value`, its value is not YAML, or the section it names does not exist.
            Whether a section has the key, and takes the value, is for ``python -m stages check`` to say.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    # As the recipe's readers (PyYAML, YAML 1.1) understand them.
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(NULL, "null"))
    yaml.representer.add_representer(float, lambda dumper, value: dumper.represent_scalar(FLOAT, as_text(value)))
    document: Any = yaml.load(recipe)
    for given in changes:
        key, equals, value = (part.strip() for part in given.partition("="))
        change = mask(given)  # for messages, which are logged
        if not equals or not key:
            raise RecipeError(f"{change!r} is not a change of the recipe; write key=value, e.g. rl.tau=0.2")
        *parents, last = key.split(".")
        node = document
        for depth, parent in enumerate(parents):
            if not isinstance(node, dict) or parent not in node:
                known = ", ".join(map(str, node)) if isinstance(node, dict) else repr(node)
                raise RecipeError(f"{change}: no key {'.'.join(parents[: depth + 1])}; there are: {known}")
            node = node[parent]
        if not isinstance(node, dict):
            raise RecipeError(f"{change}: {'.'.join(parents)} has no keys, its value is {node!r}")
        node[last] = _quoted(values_of(value, change)) if value else ""
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def values_of(text: str, change: str) -> Any:
    """A value as a person types it: ``1e-4`` is a number, ``on`` a word (YAML 1.2).

    Args:
        change: what the message of a fault begins with.

    Raises:
        RecipeError: it is not valid YAML.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise RecipeError(f"{change}: the value is not valid YAML: {' '.join(str(error).split())}") from None


def as_text(value: Any) -> str:
    """A value as JSON that PyYAML reads as what it is: ``1.0e-05``, where ``1e-05`` would be a word."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "e" in text and "." not in text else text


def _quoted(value: Any) -> Any:
    """`value` with quotes around the words that PyYAML would take for something else, such as ``on``."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    if isinstance(value, str) and not isinstance(pyyaml.safe_load(value or "''"), str):
        return DoubleQuotedScalarString(value)
    return value
