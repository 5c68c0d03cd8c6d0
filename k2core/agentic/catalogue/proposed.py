"""Categories, domains and their fields that an LLM adds to the catalogue (K2 §3.1: hierarchical domain evolution).

Three questions, each answered under a JSON Schema: categories that the catalogue lacks, the entities of a category, and
the fields, states and steps of an entity. An answer is written in the catalogue's own lines and read by its own rules,
so tools, variants and proof are made as for the domains that people wrote. A fourth question, `sensible`, is the second
reading: which variants of a tool somebody would ask for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from k2core.agentic.catalogue.entries import KEY_KINDS, OBJECTS, STRINGS, Entry, entry, plural_of
from k2core.chat.parser import argument_errors
from k2core.llm.client import LLM, Refused, Request
from k2core.storage import parse_json

PER_CATEGORY = 8
"""Entities asked for in one category."""
KINDS = ("values", "whole number", "number", "yes/no", *STRINGS, *OBJECTS)
_WORDS = "[a-z]+(_[a-z]+)?"
_NAME = {"type": "string", "pattern": f"^{_WORDS}$", "minLength": 3, "maxLength": 20}
_TEXT = {"type": "string", "pattern": "^[a-z][a-z ,]+ [a-z ,]+$", "maxLength": 60}


def _names(key: str, least: int, most: int) -> dict[str, Any]:
    items = {"type": "array", "items": _NAME, "minItems": least, "maxItems": most}
    return {"type": "object", "required": [key], "additionalProperties": False, "properties": {key: items}}


_FIELD = {
    "type": "object", "additionalProperties": False, "required": ["name", "kind", "description", "optional"],
    "properties": {
        "name": _NAME, "kind": {"enum": list(KINDS)}, "description": _TEXT, "optional": {"type": "boolean"},
        "values": {"type": "array", "items": _NAME, "minItems": 2, "maxItems": 6},
        "least": {"type": "integer"}, "most": {"type": "integer"}, "unit": _NAME,
    },
}  # fmt: skip
DOMAIN = {
    "type": "object", "additionalProperties": False, "required": ["key", "fields", "start", "steps"],
    "properties": {
        "key": {"enum": list(KEY_KINDS)},
        "fields": {"type": "array", "items": _FIELD, "minItems": 3, "maxItems": 8},
        "start": _NAME,
        "steps": {
            "type": "array", "minItems": 1, "maxItems": 4,
            "items": {
                "type": "object", "additionalProperties": False, "required": ["verb", "state"],
                "properties": {"verb": _NAME, "state": _NAME},
            },
        },
    },
}  # fmt: skip
"""A domain as the LLM answers it; `domain_lines` writes it in the catalogue's form."""


@dataclass
class Proposals:
    """What an LLM proposed: accepted domains as lines by category, and how many were refused, by reason."""

    lines: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def entries(self) -> list[Entry]:
        return [entry(c, plural, lines) for c, found in self.lines.items() for plural, lines in found.items()]

    def write(self, folder: Path) -> None:
        """A file for each category, in the form of the catalogue's own."""
        folder.mkdir()
        for category, found in self.lines.items():
            text = yaml.safe_dump({"category": category, "domains": found}, sort_keys=False, width=1000)
            (folder / f"{category}.yaml").write_text(text, encoding="utf-8")


def propose(
    llm: LLM, count: int, known: Sequence[Entry], *, max_tokens: int, temperature: float, seed: int
) -> Proposals:
    """At most `count` domains that the LLM adds to those `known`: categories first, then entities, then their fields.

    Every answer may be unusable; it is counted and left out, and nothing is asked twice.

    Raises:
        LLMUnavailable, RecipeError: the server does not answer, or refuses every request.
    """
    made, categories = Proposals(), sorted({each.category for each in known})
    taken = {each.entity for each in known}

    def ask(questions: Sequence[str], schema: dict[str, Any]) -> list[Any]:
        requests = [
            Request([{"role": "user", "content": text}], max_tokens, temperature, seed, schema) for text in questions
        ]
        return [_read(answer) for answer in llm.complete_many(requests, set_aside=True)]

    wanted = -(-count // PER_CATEGORY)
    [answer] = ask([_CATEGORIES.format(count=wanted, known=", ".join(categories))], _names("categories", 1, wanted))
    fresh = list(dict.fromkeys(_named(answer, "categories")))
    made.refused["category known"] += len(set(fresh) & set(categories))
    fresh = [name for name in fresh if name not in categories][:wanted]
    answers = ask(
        [_ENTITIES.format(count=PER_CATEGORY, category=_said(category)) for category in fresh],
        _names("entities", 1, PER_CATEGORY),
    )
    entities: list[tuple[str, str]] = []
    for category, answer in zip(fresh, answers, strict=True):
        for name in _named(answer, "entities"):
            if name in taken:
                made.refused["entity known"] += 1
            elif len(entities) < count:
                taken.add(name)
                entities.append((category, name))
    answers = ask([_FIELDS.format(entity=_said(name), category=_said(c)) for c, name in entities], DOMAIN)
    for (category, name), answer in zip(entities, answers, strict=True):
        try:
            if argument_errors(name, answer, DOMAIN):  # not every server holds an answer to its schema
                raise ValueError(f"{name}: not as the schema says")
            lines = domain_lines(name, answer)
            entry(category, plural_of(name), lines)
        except (ValueError, KeyError, TypeError):
            made.refused["domain does not fit"] += 1
        else:
            made.lines.setdefault(category, {})[plural_of(name)] = lines
    return made


def domain_lines(entity: str, answer: Any) -> dict[str, str]:
    """The lines of the catalogue for an LLM's answer.

    Raises:
        ValueError, KeyError, TypeError: the answer is not of the schema, or says a thing twice.
    """
    names = [each["name"] for each in answer["fields"]]
    states = [answer["start"], *(step["state"] for step in answer["steps"])]
    verbs = [step["verb"] for step in answer["steps"]]
    if len({*names, "status", "states", entity}) < len(names) + 3 or len(set(verbs)) < len(verbs):
        raise ValueError(f"{entity}: a field or a verb twice")
    if len(set(states)) < 2:
        raise ValueError(f"{entity}: one state alone")
    lines = {entity: answer["key"]}
    for each in answer["fields"]:
        name = each["name"] + ("?" if each["optional"] else "")
        lines[name] = f"{_kind(each)} | {each['description'].strip()}"
    steps = [f"{step['verb']} {step['state']}" for step in answer["steps"]]
    return lines | {"states": ", ".join([answer["start"], *steps])}


def sensible(
    llm: LLM, variants: dict[str, list[str]], *, max_tokens: int, temperature: float, seed: int
) -> dict[str, set[str]]:
    """Of the variants of each domain (names of tools) those that somebody would ask for.

    A domain whose answer cannot be used keeps none.
    """
    requests = [
        Request([{"role": "user", "content": _SENSIBLE.format(domain=_said(domain), names=", ".join(names))}],
                max_tokens, temperature, seed, _chosen(names))
        for domain, names in variants.items()
    ]  # fmt: skip
    answers = llm.complete_many(requests, set_aside=True)
    return {
        domain: set(names) & set(_strings(_read(answer), "names"))
        for (domain, names), answer in zip(variants.items(), answers, strict=True)
    }


def _chosen(names: Sequence[str]) -> dict[str, Any]:
    items = {"type": "array", "items": {"enum": list(names)}, "maxItems": len(names)}
    return {"type": "object", "required": ["names"], "additionalProperties": False, "properties": {"names": items}}


def _read(answer: Any) -> Any:
    if isinstance(answer, Refused):
        return None
    try:
        return parse_json(answer.text)
    except ValueError:
        return None


def _strings(answer: Any, key: str) -> list[str]:
    found = answer.get(key) if isinstance(answer, dict) else None
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _named(answer: Any, key: str) -> list[str]:
    """Those of the answer that are names: they become names of files and tools."""
    return [name for name in _strings(answer, key) if re.fullmatch(_WORDS, name)]


def _kind(each: dict[str, Any]) -> str:
    kind = each["kind"]
    if kind == "values":
        if len(set(each["values"])) < 2:
            raise ValueError(f"{each['name']}: fewer than two values")
        return ", ".join(dict.fromkeys(each["values"]))
    if kind in ("whole number", "number"):
        least, most = int(each["least"]), int(each["most"])
        if least >= most:
            raise ValueError(f"{each['name']}: from {least} to {most}")
        bounds = f"{least}..{most}" if kind == "whole number" else f"{least}.0..{most}.0"
        return f"{bounds} {each['unit']}" if "unit" in each else bounds
    return str(kind)


def _said(name: str) -> str:
    return name.replace("_", " ")


_CATEGORIES = """\
You extend a catalogue of software tools. Its categories are: {known}.
Name {count} further categories of human activity in which people use software to keep records, one or two words each.
Answer in JSON: {{"categories": ["...", ...]}}"""
_ENTITIES = """\
Category: {category}. Name {count} kinds of things, in the singular, of which an application in this category keeps a
table, one or two words each. Answer in JSON: {{"entities": ["...", ...]}}"""
_FIELDS = """\
An application in the category "{category}" keeps a table of {entity} records. Describe it in JSON:
"key" is what identifies a record (code, name, person or phrase);
"fields" has 3 to 8 fields, each with a name, a kind, a description of two to eight words and whether it may be missing
("values" needs "values", the words it can be; "whole number" and "number" need "least" and "most", and may have a
"unit");
"start" is the state in which a record begins; "steps" are verbs and the state that each leads to.
An example, for loans: {{"key": "code", "fields": [{{"name": "amount", "kind": "whole number", "least": 500,
"most": 90000, "unit": "euros", "description": "money that was lent", "optional": false}}, {{"name": "borrower",
"kind": "person", "description": "who owes the money", "optional": false}}, {{"name": "purpose", "kind": "values",
"values": ["home", "car", "study"], "description": "what the money is for", "optional": true}}], "start": "requested",
"steps": [{{"verb": "approve", "state": "approved"}}, {{"verb": "repay", "state": "repaid"}}]}}"""
_SENSIBLE = """\
An application that looks after {domain} could offer these tools: {names}.
Which of them would a person ask for in daily work? Answer in JSON: {{"names": ["...", ...]}}"""
