"""A YAML file as plain dictionaries, and the error that a person reads when it is not one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key, the value and what is allowed."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which no key appears twice. libyaml's, which is much faster, where it was built in."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # YAML itself refuses what cannot be a key
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a recipe file, unchanged.

    Raises:
        RecipeError: the file cannot be read, is not UTF-8 or YAML, has a key twice, or is not a mapping of sections.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; {_way_to(path)}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); {_way_to(path)}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        raise RecipeError(f"{path}: nothing is in this file; {_way_to(path)}")
    if not isinstance(content, dict):
        found = "a list" if isinstance(content, list) else "text"
        raise RecipeError(f"{path}: expected a mapping of sections (`model: …`), found {found}; is a colon missing?")
    return content


def _way_to(path: Path) -> str:
    if path.name == "params.yaml":
        return "`make recipe NAME=laptop` writes it anew"
    return "run from the project's root or name another file"
