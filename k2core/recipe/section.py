"""A section of `params.yaml` as a typed class, and the errors a person reads when it does not fit.

A stage declares its parameters as a `Section` next to its code; shared settings (the model, the optimiser,
the LLM) are `Section`s beside the code they configure. Unknown keys are errors: a misspelt knob that is
silently ignored costs a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Strict, ValidationError

S = TypeVar("S", bound="Section")
T = TypeVar("T")
FromList = Annotated[T, Strict(False)]
"""A tuple or set in a `Section`: YAML has lists alone. What is in it is checked as strictly as the rest."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key, the value and what is allowed."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which no key stands twice. libyaml's, which is much faster, where it was built in."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # YAML itself refuses what cannot be a key
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Section(BaseModel):
    """Base of every parameter class: immutable, no unknown keys, no silent type conversion.

    Attributes:
        TRACKED: whether the values can change an output; DVC and resuming take no notice of a section that cannot.
    """

    TRACKED: ClassVar[bool] = True
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_recipe(path: Path) -> dict[str, Any]:
    """The sections of a recipe file as plain dictionaries.

    Raises:
        RecipeError: the file is missing, is not UTF-8 or YAML, has a key twice, or is not a mapping of sections.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; run from the project's root or name another file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of sections, found {type(content).__name__}")
    return content


def validate(cls: type[S], value: Any, where: str) -> S:
    """`value` as a `cls`, or one sentence for each key that does not fit.

    Args:
        where: prefix of the key in messages, e.g. ``params.yaml: curate``.
    """
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: expected a mapping with the keys {', '.join(cls.model_fields)}; found {value!r}")
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        raise RecipeError("\n".join(_sentence(cls, where, item) for item in error.errors())) from None


def load_section(cls: type[S], path: Path, *keys: str) -> S:
    """Section `keys` (e.g. ``"pretrain", "stable"``) of the recipe at `path`."""
    return section_of(cls, read_recipe(path), path, *keys)


def section_of(cls: type[S], content: dict[str, Any], path: Path, *keys: str) -> S:
    """Section `keys` of a recipe's `content`, which was read from `path`."""
    node: Any = content
    for depth, key in enumerate(keys):
        if not isinstance(node, dict) or key not in node:
            known = ", ".join(node) if isinstance(node, dict) else repr(node)
            raise RecipeError(f"{path}: no key {'.'.join(keys[: depth + 1])}; there are: {known}")
        node = node[key]
    return validate(cls, node, f"{path}: {'.'.join(keys)}")


def _sentence(cls: type[Section], where: str, item: dict[str, Any]) -> str:
    key = ".".join([where, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed here: {', '.join(_keys_at(cls, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{key}: missing; it must be given"
    if item["type"] in ("int_type", "float_type") and _is_number(item["input"]):
        return f"{key} = {item['input']!r}: a number as text; write it without quotes, and 1e-6 as 1.0e-6"
    return f"{key} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def _keys_at(cls: type[Section], loc: tuple[Any, ...]) -> list[str]:
    """The field names that are allowed at `loc` below `cls`, as far as the annotations tell."""
    node: Any = cls
    for part in loc:
        if isinstance(node, type) and issubclass(node, BaseModel) and part in node.model_fields:
            node = node.model_fields[part].annotation
        while not isinstance(node, type) and getattr(node, "__args__", None):
            node = next((arg for arg in reversed(node.__args__) if arg is not type(None)), None)
    return list(node.model_fields) if isinstance(node, type) and issubclass(node, BaseModel) else ["(see the docs)"]
