"""A section of `params.yaml` as a typed class, and the errors a person reads when it does not fit.

A stage declares its parameters as a `Section` next to its code; shared settings (the model, the optimiser,
the LLM) are `Section`s beside the code they configure. Unknown keys are errors: a misspelt knob that is
silently ignored costs a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from k2core.recipe.masking import mask, passwords
from k2core.recipe.overlay import read_recipe
from k2core.recipe.reading import RecipeError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

S = TypeVar("S", bound="Section")
T = TypeVar("T")
FromList = Annotated[T, Strict(False)]
"""A tuple or set in a `Section`: YAML has only lists. What is in it is checked as strictly as the rest."""


class Section(BaseModel):
    """Base of every parameter class: immutable, no unknown keys, no silent type conversion.

    Attributes:
        TRACKED: whether the values can change an output; DVC and resuming take no notice of a section that cannot.
    """

    TRACKED: ClassVar[bool] = True
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def for_value(cls, value: dict[str, Any]) -> type[Self]:
        """The class that checks `value`: a subclass, where one of its keys says which.

        Raises:
            RecipeError: there is none of that name.
        """
        return cls


def validate(cls: type[S], value: Any, where: str) -> S:
    """`value` as a `cls`, or one sentence for each key that does not fit.

    Args:
        where: prefix of the key in messages, e.g. ``params.yaml: curate``.
    """
    if not isinstance(value, dict):
        keys, found = ", ".join(cls.model_fields), "a list" if isinstance(value, list) else repr(value)
        raise RecipeError(mask(f"{where}: expected a mapping with the keys {keys}; found {found}"))
    if faults := list(passwords(value, where)):
        raise RecipeError("\n".join(faults))
    try:
        cls = cls.for_value(value)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        raise RecipeError(mask("\n".join(_sentence(cls, where, value, item) for item in error.errors()))) from None


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


def _sentence(cls: type[Section], where: str, value: Any, item: ErrorDetails) -> str:
    key = ".".join([where, *_named(item["loc"], value)])
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(cls, item["loc"][:-1])
        return f"{key}: unknown key{did_you_mean(item['loc'][-1], allowed)}; allowed here: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{key}: missing; it must be given"
    if item["type"] in ("int_type", "float_type") and _is_number(item["input"]):
        return f"{key} = {item['input']!r}: a number as text; write it without quotes, and 1e-6 as 1.0e-6"
    shown = "" if isinstance(item["input"], dict | list) else f" = {item['input']!r}"  # as Python writes it, not YAML
    if item["type"] == "value_error":  # a sentence of ours
        return f"{key}{shown}: {item['ctx']['error']}"
    return f"{key}{shown}: {item['msg'][0].lower()}{item['msg'][1:]}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`` (did you mean license?)`` for ``licence``; empty where nothing that is known comes near."""
    near = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _named(loc: tuple[Any, ...], node: Any) -> Iterator[str]:
    """The parts of a key below `node`; an entry of a list is called by its name too, if it has one: ``0 (notes)``."""
    for part in loc:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):  # a key that is missing
            node = None
        name = node.get("name") if isinstance(part, int) and isinstance(node, dict) else None
        yield f"{part} ({name})" if name else str(part)


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
