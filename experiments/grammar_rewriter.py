"""A deterministic rewriter of encyclopaedic summaries: rules for order, clauses and connectives, synonyms from a file.

It takes a summary whose first sentence says what something is apart into subject, aside ("also known as …"), definition
and further statements, puts the subject's name for pronouns, and composes the versions of `grammar.yaml`: other orders,
clauses moved to the front or the end, clefts, active for passive, question and answer, notes. Facts are only moved, and
`keeps_facts` checks it. What it cannot do: new sentence structures, and English that a reader would not notice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from k2core.recipe import FromList, Section, validate
from k2core.synthesis.fidelity import facts

Clause = Literal["relative", "front", "back", "cleft", "active", "split", "lists", "synonyms"]

_DEFINITION = re.compile(
    r"^(?P<name>[^,()]{2,60}?)(?P<aside>, [^()]{3,120}?,|)? (?P<be>is|was|are|were) (?P<d>(?:an?|the|one|any)\s.+)[.]$"
)
_NAMING = re.compile(
    r"^(?:officially\b|(?:\w+ ){0,2}(?:known|called|named|referred to|spelled|abbreviated|styled|romanized)\b)"
)
_PRONOUN = re.compile(
    r"^(It|He|She|They|Its|His|Her|Their)\b(?! (?:is|was) (?:believed|thought|estimated|said|possible|in)\b)"
)
_PARTICIPLE = re.compile(r"[A-Z][a-z]+(?:ed|ing)")
_TIME = (
    r"(?:in|on|since|from|until|during|by|after|before) "
    r"(?:(?:the|early|late|mid|\d{1,2}|\d+(?:st|nd|rd|th)|[A-Z][a-z]+) ){0,3}?"
    r"(?:\d{3,4}|century|centuries)(?: BCE?| AD| CE)?"
)
_TRAILING_TIME = re.compile(rf"^(?P<main>.{{12,}}?),? (?P<time>{_TIME})[.]$")
_LEADING = re.compile(
    r"^(?P<lead>(?:In|On|Since|During|From|By|After|Before|At|As of|With|Despite|Although|While|When|Under) [^,]{3,70})"
    r", (?P<main>.+)[.]$"
)
_PASSIVE = re.compile(
    r"^(?P<what>[^,;:]{2,60}?) (?:was|were) (?P<verb>\w+ed|written|built|made|won|led|held) by "
    rf"(?P<who>[^,;:]+?)(?P<time> {_TIME})?[.]$"
)
_PAST = {"written": "wrote"}
_SPLIT = re.compile(r"; |(?<=[a-z]{3}), (?:and|but|while|whereas) (?=(?:it|he|she|they|the|its|his|her|their|this)\s)")
_RELATIVE = re.compile(
    r"^(?P<head>(?!one of)[^,]{8,}?),? (?:that|which|who) (?P<rest>(?:is|was|has|had|can|\w+ed|\w+[^s\W]s) .+)$"
)
_LIST = re.compile(
    r"\b(?P<before>(?:of|as|with|in|for|by|from|including) )(?P<a>\w+), (?P<b>\w+),? and (?P<c>\w+)(?=[,.;)])"
)
_YEAR = re.compile(r"\b\d{3,4}\b")


class Version(Section):
    """One way of putting an article, an entry of grammar.yaml."""

    name: str = Field(min_length=1, description="what it is called in results")
    definition: str = Field(pattern=r"\{[dD]\}", description="frame of the first sentence")
    aside: Literal["inside", "after", "first"] = Field(description="where another name of the subject is given")
    order: Literal["forward", "reversed", "rotated", "years", "last"] = Field(
        description="order of the statements; years: those with a year first; last: the definition at the end"
    )
    clauses: list[Clause] = Field(description="what is done to each statement, in turn")
    leads: list[str] = Field(min_length=1, description="what stands before each statement, in turn")


class Grammar(Section):
    """grammar.yaml."""

    versions: list[Version] = Field(min_length=2, description="the ways of putting an article")
    starters: FromList[frozenset[str]] = Field(
        description="first words of a sentence that lose their capital inside one"
    )
    synonyms: list[list[str]] = Field(description="groups of words that stand for each other")


@dataclass(frozen=True)
class Parsed:
    """A summary taken apart; `statements` are sentences that name the subject instead of pronouns."""

    name: str
    aside: str
    be: str
    definition: str
    statements: tuple[str, ...]


@cache
def load_grammar(path: Path = Path(__file__).with_name("grammar.yaml")) -> Grammar:
    """The frames and synonyms."""
    return validate(Grammar, yaml.safe_load(path.read_text()), path.name)


def versions(title: str, text: str) -> list[str] | None:
    """`text` in each version of grammar.yaml, all different and none the source; None if the rules cannot read it.

    Args:
        title: name of the article, without a part in brackets.
    """
    parsed = parse(title, text)
    if parsed is None:
        return None
    made = [_compose(parsed, version, number) for number, version in enumerate(load_grammar().versions)]
    return made if len({*made, text}) == len(made) + 1 else None


def keeps_facts(source: str, rewrite: str, common: frozenset[str]) -> bool:
    """Whether both state the same numbers and names; `common` are `facts.common_words` of the corpus."""
    common = common | _frame_words()
    here, there = set(facts.words(source)), set(facts.words(rewrite))
    kept = facts.names(source, common) <= there
    return kept and facts.names(rewrite, common) <= here and facts.numbers(source) == facts.numbers(rewrite)


def parse(title: str, text: str) -> Parsed | None:
    """`text` taken apart, or None if its first sentence is no definition of `title`."""
    sentences = facts.sentences(" ".join(text.split()))
    found = _DEFINITION.match(sentences[0]) if sentences else None
    if found is None or not set(facts.words(title)) & set(facts.words(found["name"])):
        return None
    name = _lower_first(found["name"])
    statements = [_named(sentence, name, found["be"]) for sentence in sentences[1:]]
    if not all(statement.endswith((".", '."', ".)")) for statement in statements):
        return None
    return Parsed(name, (found["aside"] or "").strip(", "), found["be"], found["d"], tuple(statements))


def _named(sentence: str, name: str, be: str) -> str:
    found = _PRONOUN.match(sentence)
    if found is None or (found[1] in ("They", "Their")) != (be in ("are", "were")):
        return sentence
    owner = f"{name}'" if name.endswith("s") else f"{name}'s"
    subject = owner if found[1] in ("Its", "His", "Her", "Their") else name
    return _upper_first(subject + sentence[found.end() :])


def _compose(parsed: Parsed, version: Version, number: int) -> str:
    naming = bool(parsed.aside) and bool(_NAMING.match(parsed.aside))
    inside = bool(parsed.aside) and (version.aside == "inside" or not naming)
    name = f"{parsed.name}, {parsed.aside}," if inside else parsed.name
    is_, *further = _relative(parsed) if "relative" in version.clauses else [parsed.definition]
    words = {"be": parsed.be, "name": name, "Name": _upper_first(name), "d": is_, "D": _upper_first(is_)}
    definition = re.sub(r",(?=[.,;:?])", "", version.definition.format(**words))
    if "synonyms" in version.clauses:
        definition = _synonyms(definition, number)
    reworked = [part for s in (*further, *parsed.statements) for part in _reworked(s, version, number)]
    statements = _ordered(reworked, version.order)
    led = [_led(lead, statement) for lead, statement in zip(cycle(version.leads), statements, strict=False)]
    opening = [definition]
    if naming and not inside:
        aside = _synonyms(f"{_upper_first(parsed.name)} {parsed.be} {parsed.aside}.", number)
        opening = [aside, definition] if version.aside == "first" else [definition, aside]
        if definition.startswith("- "):
            opening = [definition, f"- {aside}"]
    parts = [*led, *opening] if version.order == "last" else [*opening, *led]
    if definition.startswith("- "):
        return "\n".join(parts)
    whole = parts[0]
    for part in parts[1:]:
        whole += " " + (part if whole.endswith(";") else _upper_first(part))
    return whole.removesuffix(";") + "." if whole.endswith(";") else whole


def _ordered(statements: list[str], order: str) -> list[str]:
    if order == "reversed":
        return statements[::-1]
    if order == "rotated":
        return statements[1:] + statements[:1]
    if order == "years":
        return sorted(statements, key=lambda statement: _YEAR.search(statement) is None)
    return statements


def _led(lead: str, statement: str) -> str:
    return statement if not lead else lead + (statement if lead.rstrip()[-1] in "?-" else _lower_first(statement))


def _reworked(statement: str, version: Version, number: int) -> list[str]:
    parts = [statement]
    for clause in version.clauses:
        if clause == "split":
            parts = [part for whole in parts for part in _split(whole)]
        elif clause == "synonyms":
            parts = [_synonyms(part, number) for part in parts]
        elif clause != "relative":
            parts = [_CLAUSES[clause](part) for part in parts]
    return parts


def _relative(parsed: Parsed) -> list[str]:
    """`a bird that eats fish` → `a bird`, and the statement `The osprey eats fish.`"""
    found = _RELATIVE.match(parsed.definition)
    if found is None or parsed.be in ("are", "were"):
        return [parsed.definition]
    return [found["head"], f"{_upper_first(parsed.name)} {found['rest']}."]


def _front(statement: str) -> str:
    """`He moved to Rome in 1503.` → `In 1503, he moved to Rome.`"""
    found = _TRAILING_TIME.match(statement)
    return f"{_upper_first(found['time'])}, {_lower_first(found['main'])}." if found else statement


def _back(statement: str) -> str:
    """`In 1503, he moved to Rome.` → `He moved to Rome, in 1503.`

    Only before a word that begins a sentence's subject: in `In Paris, London and Rome, …` the comma is another one.
    """
    found = _LEADING.match(statement)
    if found is None or found["main"].split()[0] not in load_grammar().starters:
        return statement
    return f"{_upper_first(found['main'])}, {_lower_first(found['lead'])}."


def _cleft(statement: str) -> str:
    """`He moved to Rome in 1503.` → `It was in 1503 that he moved to Rome.`"""
    found = _TRAILING_TIME.match(statement)
    if found is None or not re.search(r"\b(?:was|were|had|\w+ed)\b", found["main"]):
        return statement
    return f"It was {found['time']} that {_lower_first(found['main'])}."


def _active(statement: str) -> str:
    """`The book was written by Ann Smith.` → `Ann Smith wrote the book.`"""
    found = _PASSIVE.match(statement)
    if found is None:
        return statement
    verb = _PAST.get(found["verb"], found["verb"])
    return f"{_upper_first(found['who'])} {verb} {_lower_first(found['what'])}{found['time'] or ''}."


def _split(statement: str) -> list[str]:
    """At semicolons, and before `and`, `but`, `while` with a subject of their own."""
    parts = _SPLIT.split(statement)
    if any("," in part for part in parts[:-1]):  # the comma may be that of a list
        return [statement]
    return [_upper_first(part.rstrip(".")) + "." for part in parts]


def _lists(statement: str) -> str:
    """`in Peru, Chile, and Bolivia` → `in Chile, Bolivia and Peru`; single words only."""
    return _LIST.sub(r"\g<before>\g<b>, \g<c> and \g<a>", statement)


def _synonyms(statement: str, number: int) -> str:
    pattern, groups = _synonym_table()

    def another(found: re.Match[str]) -> str:
        group, place = groups[found["word"]]
        chosen = group[(place + 1 + number) % len(group)]
        article = found["article"] and ("an " if chosen[0] in "aeiou" else "a ")
        return (article or "") + chosen

    return pattern.sub(another, statement)


@cache
def _synonym_table() -> tuple[re.Pattern[str], dict[str, tuple[list[str], int]]]:
    groups: dict[str, tuple[list[str], int]] = {}
    for group in load_grammar().synonyms:
        for place, word in enumerate(group):
            groups.setdefault(word, (group, place))
    longest_first = sorted(groups, key=len, reverse=True)
    return re.compile(rf"\b(?P<article>an? )?(?P<word>{'|'.join(map(re.escape, longest_first))})\b"), groups


@cache
def _frame_words() -> frozenset[str]:
    """Words that are no names, however they are written."""
    grammar = load_grammar()
    frames = [text for version in grammar.versions for text in (version.definition, *version.leads)]
    return grammar.starters | {word for frame in frames for word in facts.words(frame)}


_CLAUSES: dict[str, Callable[[str], str]] = {
    "front": _front, "back": _back, "cleft": _cleft, "active": _active, "lists": _lists,
}  # fmt: skip


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower_first(text: str) -> str:
    first = text.split(" ", 1)[0]
    small = first.lower() in load_grammar().starters or _PARTICIPLE.fullmatch(first)
    return first.lower() + text[len(first) :] if small else text
