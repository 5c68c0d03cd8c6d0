"""Faithful rewrites by rules that keep what a text states; several rules together, so that little is left verbatim."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from k2core.synthesis.fidelity import facts

LEAST_RULES = 2
_JOINED = 140
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
MONTH = f"(?:{'|'.join(MONTHS)})"
_PRONOUN = re.compile(r"^(He|She|It|They|His|Her|Its|Their|This|These|That|Those|Both|Other|Another|However|Also)\b")
_FRONTED = re.compile(
    r"^((?:In|On|During|After|Since|By|At|From|Between|Until|Within) [^,]{3,50}), ([^,]+(?:,[^,]+)?)\.$"
)
_TIME = re.compile(rf"^(.+?[^,]) ((?:in|on|during|since|by) (?:the )?(?:early |late |\d+ )?(?:{MONTH} )?\d[\w ,-]*)\.$")
_PLACE = re.compile(r"^(.+?[^,]) (in (?:the )?[A-Z]\w+(?: [A-Z]\w+)?)\.$")
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|where|and|or|but)\b")
_PASSIVE = re.compile(r"^([A-Z][^,.]{2,60}?) (?:is|was|were) (\w+) by ([^,.]{3,70})\.$")
_TRAILING = re.compile(
    r"^([^,]{3,60} (?:is|was|are|were) [^,]+), ((?:known|noted|located|founded|based|written|directed|produced|"
    r"released|used|considered|regarded|named|born|led|held|made|designed|featuring|including|covering|spanning|reaching|"
    r"making|becoming|with|where)\b(?:(?!, (?:that|which|who|and)\b)[^.])+)\.$"
)
_IDENTITY = re.compile(r"^([A-Z][^,.]{2,50}?) (is|was) the ([^,.]+)\.$")
_SUBJECT = re.compile(
    r"^((?:The )?[A-Z][\w.'’-]*(?: (?:of |the |de |van |von |and )?[A-Z][\w.'’-]*)*) (?:is|was|are|were)\b"
)
_DETERMINERS = frozenset(
    [
        "The",
        "A",
        "An",
        "It",
        "He",
        "She",
        "They",
        "His",
        "Her",
        "Its",
        "Their",
        "This",
        "These",
        "Most",
        "Many",
        "Some",
        "Several",
        "All",
    ]
)

Rule = Callable[[list[str], Random], list[str]]


@cache
def tables() -> dict[str, Any]:
    """The lists of tables.yaml."""
    return yaml.safe_load(Path(__file__).with_name("tables.yaml").read_text())


def faithful(text: str, random: Random) -> str | None:
    """`text` in other words; None where fewer than `LEAST_RULES` rules found something to change."""
    sentences, applied = facts.sentences(text), 0
    for rule in _RULES:
        changed = rule(sentences, random)
        applied += changed != sentences
        sentences = changed
    return " ".join(sentences) if applied >= LEAST_RULES else None


def _each(change: Callable[[str, Random], str]) -> Rule:
    return lambda sentences, random: [change(sentence, random) for sentence in sentences]


def _named(sentences: list[str], random: Random) -> list[str]:
    """`He` at the start of a sentence as the subject's last name, or a repeated subject as the text's one pronoun."""
    subject = _SUBJECT.match(sentences[0])
    if not subject:
        return sentences
    name, personal = subject[1], {found[0] for s in sentences[1:] if (found := re.match(r"(He|She)\b", s))}
    short = name.split()[-1] if personal else name[:1] + name[1:]
    out, done = [sentences[0]], False
    for sentence in sentences[1:]:
        pronoun = re.match(r"(He|She|It) (?=(?:is|was|has|had)\b)", sentence)
        if pronoun and not done and (pronoun[1] != "It" or not personal):
            sentence, done = f"{short} {sentence[pronoun.end() :]}", True
        elif len(personal) == 1 and sentence.startswith(f"{short} "):
            sentence = f"{min(personal)} {sentence[len(short) + 1 :]}"
        out.append(sentence)
    return out


def _fronting(sentence: str, random: Random) -> str:
    if match := _FRONTED.match(sentence):
        return f"{_upper(match[2])} {match[1][0].lower()}{match[1][1:]}."
    match = _TIME.match(sentence) or _PLACE.match(sentence)
    if match and match[1].count(",") < 2 and not _RELATIVE.search(match[1]):
        return f"{_upper(match[2])}, {_lower(match[1])}."
    return sentence


def _active(sentence: str, random: Random) -> str:
    match = _PASSIVE.match(sentence)
    if match and match[2] in tables()["participles"]:
        return f"{_upper(match[3])} {tables()['participles'][match[2]]} {_lower(match[1])}."
    return sentence


def _inverted(sentence: str, random: Random) -> str:
    if match := _TRAILING.match(sentence):
        return f"{_upper(match[2])}, {_lower(match[1])}."
    if match := _IDENTITY.match(sentence):
        return f"The {match[3]} {match[2]} {_lower(match[1])}."
    return sentence


def _split(sentences: list[str], random: Random) -> list[str]:
    out = []
    for sentence in sentences:
        parts = re.split(r"; (?!however)|, and (?=(?:he|she|it|they) )", sentence)
        if len(parts) == 1 and (match := re.match(r"^(.{30,}), but (?=(?:he|she|it|they|the) )(.{30,})$", sentence)):
            parts = [match[1], f"However, {match[2]}"]
        out += [_upper(part.strip().rstrip(".") + ".") for part in parts] if len(parts) > 1 else [sentence]
    return out


def _joined(sentences: list[str], random: Random) -> list[str]:
    out: list[str] = []
    joined = False
    for sentence in sentences:
        fits = out and not joined and len(out[-1]) < _JOINED and len(sentence) < _JOINED and out[-1].endswith(".")
        if fits and re.match(r"(He|She|It|They|The|His|Its) ", sentence):
            out[-1] = f"{out[-1][:-1]}, and {_lower(sentence)}"
            joined = True
        else:
            out.append(sentence)
            joined = False
    return out


def _forms(sentence: str, random: Random) -> str:
    """Dates, ranges of years and numbers, written the other way."""
    turned = re.sub(rf"\b(\d{{1,2}}) ({MONTH}) (\d{{4}})\b", r"\2 \1, \3", sentence)
    if turned == sentence:
        turned = re.sub(rf"\b({MONTH}) (\d{{1,2}}), (\d{{4}})\b", r"\2 \1 \3", sentence)
    turned = re.sub(r"\((\d{4}) ?[–-] ?(\d{4})\)", r"(from \1 to \2)", turned)
    turned = re.sub(r"\bfrom (\d{4}) (?:to|until) (\d{4})\b(?!\))", r"between \1 and \2", turned)
    small = facts.SMALL
    turned = re.sub(r"\b(1?\d)th century\b", lambda m: f"{ordinal(int(m[1]))} century", turned)
    return re.sub(rf"\b({'|'.join(small[3:])}) (?=[a-z]+s\b)", lambda m: f"{small.index(m[1])} ", turned)


def ordinal(value: int) -> str:
    """`fourth` of 4, up to 19."""
    return next(word for word, known in facts.ORDINALS.items() if known == value)


def _reordered(sentences: list[str], random: Random) -> list[str]:
    """Two neighbours exchanged that neither follow from a sentence before them nor lead to one behind them."""
    free = [not _PRONOUN.match(sentence) for sentence in sentences] + [True]
    for place in range(1, len(sentences) - 1):
        if free[place] and free[place + 1] and free[place + 2]:
            left, right = sentences[place : place + 2]
            return [*sentences[:place], right, left, *sentences[place + 2 :]]
    return sentences


def _synonyms(sentence: str, random: Random) -> str:
    return with_synonyms(sentence, random, 0.9)


def with_synonyms(text: str, random: Random, share: float) -> str:
    """`text` with about that share of the words that tables.yaml knows replaced."""
    known = tables()["synonyms"]
    words = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    pattern = rf"(?<![-\w])(?<!how )(?<!as )({words})(?![-\w])(?! out)"
    return re.sub(pattern, lambda match: known[match[1]] if random.random() < share else match[1], text)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """With a small first letter, if the first word is not a name."""
    return text[:1].lower() + text[1:] if text.split()[0].rstrip(",") in _DETERMINERS else text


_RULES: tuple[Rule, ...] = (
    _named, _split, _each(_fronting), _each(_active), _each(_inverted), _reordered, _joined, _each(_forms),
    _each(_synonyms),
)  # fmt: skip
