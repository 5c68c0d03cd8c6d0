"""Whether a tool can be declared with a JSON Schema: one that can be used, and that some finite object meets.

A subschema that needs itself, as `{"$ref": "#/properties/a"}` at `properties/a`, is met by nothing: only what is shown
to have a value counts as having one, beginning with subschemas that need no other. Whether two subschemas exclude each
other is asked of llguidance, which intersects them. What neither sees is taken to be meetable.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from k2core.chat.parser import schema_fault

KINDS = ("object", "array", "string", "number", "boolean", "null")
FLAT = ("type", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength")
"""Keywords that a listed value is held against."""
EXCLUDES = "Unsatisfiable schema: "
"""With this llguidance begins, where no value is left."""


@dataclass(frozen=True)
class _Fault:
    """What leaves a subschema without a value: at which of its parts, and why, or which subschema there has none."""

    path: str
    why: str = ""
    inner: Any = None


def parameters_fault(parameters: dict[str, Any]) -> str:
    """Why no tool can have the parameters: the place as a JSON path, and what is wrong there; empty if one can."""
    try:
        return schema_fault(parameters) or _Schema(parameters).fault() or _exclusion(parameters)
    except RecursionError:
        return "$: nested too deeply"


class _Schema:
    """A valid schema of an object, and which of its subschemas have a value."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.root = parameters | {"type": "object"}
        self.places: dict[int, str] = {}
        self.subschemas: list[dict[str, Any]] = []  # each after those that it needs, circles apart
        self.met: set[int] = set()
        self._collect("$", self.root)

    def fault(self) -> str:
        """The place and the reason why nothing meets the whole; empty if something may."""
        before = -1
        while len(self.met) > before:
            before = len(self.met)
            for subschema in self.subschemas:
                if id(subschema) not in self.met and self._why(subschema) is None:
                    self.met.add(id(subschema))
        found, seen = self.root, set[int]()
        while why := None if self._meets(found) else self._why(found):
            seen.add(id(found))
            if why.inner is None or why.inner is False:
                place = why.path if why.path.startswith("$") else self.places[id(found)] + why.path
                return f"{place}: no value meets it, because {why.why or 'it is false'}"
            found = why.inner
            if id(found) in seen:
                return f"{self.places[id(found)]}: no value meets it, because it needs itself"
        return ""

    def _collect(self, place: str, subschema: Any) -> None:
        if not isinstance(subschema, dict) or id(subschema) in self.places:
            return
        self.places[id(subschema)] = place
        for path, part in self._parts(subschema):
            self._collect(path if path.startswith("$") else place + path, part)
        self.subschemas.append(subschema)

    def _parts(self, subschema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """The subschemas that a value may be held against."""
        properties = subschema.get("properties") or {}
        for name in subschema.get("required") or ():
            yield f".properties.{name}", properties.get(name)
        for keyword in ("allOf", "anyOf", "oneOf", "prefixItems"):
            for number, part in enumerate(subschema.get(keyword) or ()):
                yield f".{keyword}[{number}]", part
        for keyword in ("items", "additionalProperties"):
            yield f".{keyword}", subschema.get(keyword)
        if "$ref" in subschema:
            yield subschema["$ref"].replace("#", "$", 1).replace("/", "."), self._target(subschema["$ref"])

    def _target(self, reference: str) -> Any:
        """What a reference within the schema means; True for another kind of reference, which may mean anything."""
        if reference != "#" and not reference.startswith("#/"):
            return True
        found: Any = self.root
        for step in reference.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, TypeError, ValueError):
                return True
        return found

    def _meets(self, subschema: Any) -> bool:
        return id(subschema) in self.met if isinstance(subschema, dict) else subschema is not False

    def _why(self, subschema: dict[str, Any]) -> _Fault | None:
        """What leaves it without a value, as far as is known."""
        parts = dict(self._parts(subschema))
        for path, part in parts.items():
            if path.startswith((".allOf", "$")) and not self._meets(part):
                return _Fault(path, "", part)
        for keyword in ("anyOf", "oneOf"):
            unmet = [one for one in parts.items() if one[0].startswith(f".{keyword}") and not self._meets(one[1])]
            if unmet and len(unmet) == len(subschema[keyword]):
                return _Fault(unmet[0][0], "", unmet[0][1])
        if "enum" in subschema:
            return None if _listed(subschema, subschema["enum"]) else _Fault("", "its enum lists none that fits")
        if "const" in subschema:
            return None if _listed(subschema, [subschema["const"]]) else _Fault("", "its const does not fit")
        kinds = subschema.get("type", KINDS)
        faults = [self._of_kind(kind, subschema) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        return faults[0] if all(faults) else None

    def _of_kind(self, kind: str, schema: dict[str, Any]) -> _Fault | None:
        """What leaves it without a value of the JSON type `kind`."""
        if kind in ("number", "integer"):
            return _no_number(schema, kind == "integer")
        low, high = {"object": ("minProperties", "maxProperties"), "array": ("minItems", "maxItems"),
                     "string": ("minLength", "maxLength")}.get(kind, ("", ""))  # fmt: skip
        if schema.get(low, 0) > schema.get(high, math.inf):
            return _Fault("", f"{low} is above {high}")
        if kind == "object":
            return self._no_object(schema)
        if kind == "array" and (fewest := schema.get("minItems", 0)):
            first = schema.get("prefixItems", [])
            for number, part in enumerate(first[: int(fewest)]):
                if not self._meets(part):
                    return _Fault(f".prefixItems[{number}]", "", part)
            if fewest > len(first) and not self._meets(schema.get("items")):
                return _Fault(".items", "", schema["items"])
        return None

    def _no_object(self, schema: dict[str, Any]) -> _Fault | None:
        properties, others = schema.get("properties", {}), schema.get("additionalProperties")
        for name in schema.get("required", ()):
            if name in properties:
                if not self._meets(properties[name]):
                    return _Fault(f".properties.{name}", "", properties[name])
            elif not self._meets(others) and not schema.get("patternProperties"):
                return _Fault(".required", f"{name!r} is required and not allowed") if others is False else _Fault(
                    ".additionalProperties", "", others
                )  # fmt: skip
        return None


def _listed(schema: dict[str, Any], values: list[Any]) -> bool:
    """Whether one of the values is of the schema's types and within its bounds."""
    from jsonschema import Draft202012Validator

    flat = Draft202012Validator({key: schema[key] for key in FLAT if key in schema})
    return any(flat.is_valid(value) for value in values)


def _no_number(schema: dict[str, Any], whole: bool) -> _Fault | None:
    low, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    high, below = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    bottom, top = max(low, above), min(high, below)
    open_ended = above == bottom > -math.inf or below == top < math.inf
    if bottom > top or (bottom == top and open_ended):
        return _Fault("", "its minimum is above its maximum")
    if whole and math.isfinite(bottom) and math.isfinite(top):
        least = math.floor(bottom) + 1 if above == bottom else math.ceil(bottom)
        most = math.ceil(top) - 1 if below == top else math.floor(top)
        return _Fault("", "no integer is within its bounds") if least > most else None
    return None


def _exclusion(parameters: dict[str, Any]) -> str:
    """What llguidance says of subschemas that exclude each other; empty if it leaves a value, or cannot tell."""
    import llguidance

    text = json.dumps({**parameters, "type": "object", "x-guidance": {"lenient": True}})
    grammar = f"%llguidance {{}}\nstart: %json {text}"
    failed, said = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    _, found, why = said[0].splitlines()[0].partition(EXCLUDES) if failed and said else ("", "", "")
    return f"$: no value meets it, because {why}" if found else ""
