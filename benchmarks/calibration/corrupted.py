"""One fault put into a faithful rewrite. Each function returns None where the text offers nothing to break."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from random import Random

from benchmarks.calibration.faithful import MONTH, MONTHS, tables
from k2core.synthesis.fidelity import facts

_NAME = re.compile(r"[A-Z][\w-]+(?:[’'][A-Z]?\w+)?(?: (?:of |the |de |van |von )?[A-Z][\w-]+)*")
_DIGITS = re.compile(r"(?<![\w.,])\d+(?:\.\d+)?(?![\w]|[.,]\d)")
_STATES = re.compile(r"\b(is|are|was|were|has|had|can|could|will|would|may|must)\b (?!not|never|no\b)")
_CLAUSE = re.compile(r"(?:, | (?=(?:which|who|where|while|because) ))[^,.;]{20,}(?=[,.](?:\s|$))")
_LIST_WORDS = frozenset(("and", "or", "the", "of", "known", "called", "also", "as", "a", "an", "including"))


@dataclass(frozen=True)
class Material:
    """What a corrupted rewrite is made of: a faithful one, its source, and both of another article."""

    source: str
    faithful: str
    other: str
    foreign: str
    """The text of an article in another language."""
    common: frozenset[str]


Fault = Callable[[Material, Random], str | None]


def swapped_names(material: Material, random: Random) -> str | None:
    """Two names exchanged that are not in one list."""
    text = material.faithful
    return _swap(text, _own_names(material), random)


def swapped_numbers(material: Material, random: Random) -> str | None:
    """Two numbers exchanged that are not in one list."""
    return _swap(material.faithful, list(_DIGITS.finditer(material.faithful)), random)


def foreign_name(material: Material, random: Random) -> str | None:
    """A name replaced, wherever it occurs, by one of another article."""
    names = sorted({match[0] for match in _own_names(material)})
    known = set(facts.words(material.source))
    others = [
        match[0]
        for match in _name_matches(material.other, material.common)
        if not set(facts.words(match[0])) & known
    ]  # fmt: skip
    if not names or not others:
        return None
    return re.sub(rf"\b{re.escape(random.choice(names))}\b", random.choice(others), material.faithful)


def changed_number(material: Material, random: Random) -> str | None:
    """One digit of a number that is not a date."""
    dates = {match.span() for match in _date_numbers(material.faithful)}
    places = [match for match in _DIGITS.finditer(material.faithful) if match.span() not in dates]
    return _other_number(material, places, random)


def changed_date(material: Material, random: Random) -> str | None:
    """Another year, day or month."""
    text = material.faithful
    months = list(re.finditer(rf"\b{MONTH}\b(?= \d)", text))
    if months and random.random() < 0.3:
        place = random.choice(months)
        left = [month for month in MONTHS if month not in text]
        return text[: place.start()] + random.choice(left) + text[place.end() :]
    return _other_number(material, _date_numbers(text), random)


def dropped_sentence(material: Material, random: Random) -> str | None:
    """One sentence left out, which has something of the source."""
    sentences = facts.sentences(material.faithful)
    known = {word for word in facts.words(material.source) if len(word) > 3}
    places = [
        place for place, sentence in enumerate(sentences)
        if len(known & set(facts.words(sentence))) >= 3 or facts.numbers(sentence)
    ]  # fmt: skip
    if len(sentences) < 2 or not places:
        return None
    del sentences[random.choice(places)]
    return " ".join(sentences)


def dropped_clause(material: Material, random: Random) -> str | None:
    """One clause of 4 words or more left out, up to a comma or the sentence's end."""
    clauses = [match for match in _CLAUSE.finditer(material.faithful) if len(match[0].split()) >= 4]
    if not clauses:
        return None
    clause = random.choice(clauses)
    return material.faithful[: clause.start()] + material.faithful[clause.end() :]


def added_sentence(material: Material, random: Random) -> str | None:
    """A sentence of another article added after one of its own."""
    sentences = facts.sentences(material.faithful)
    sentences.insert(random.randint(1, len(sentences)), max(facts.sentences(material.other), key=len))
    return " ".join(sentences)


def invented_clause(material: Material, random: Random) -> str | None:
    """A clause without names and numbers, about nothing the source says."""
    sentences = facts.sentences(material.faithful)
    places = [place for place, sentence in enumerate(sentences) if sentence.endswith(".")]
    if not places:
        return None
    place = random.choice(places)
    sentences[place] = sentences[place].rstrip(".") + random.choice(tables()["invented"]) + "."
    return " ".join(sentences)


def negated(material: Material, random: Random) -> str | None:
    """A statement denied."""
    places = list(_STATES.finditer(material.faithful))
    if not places:
        return None
    place = random.choice(places)
    denial = random.choice(("not", "never", "no longer"))
    return f"{material.faithful[: place.end(1)]} {denial} {material.faithful[place.end() :]}"


def reversed_relation(material: Material, random: Random) -> str | None:
    """A word replaced by its opposite."""
    turn = {a: b for pair in tables()["opposites"] for a, b in (pair, pair[::-1])}
    places = [match for match in re.finditer(r"(?<![-\w])[a-z]+(?![-\w])", material.faithful) if match[0] in turn]
    if not places:
        return None
    place = random.choice(places)
    return material.faithful[: place.start()] + turn[place[0]] + material.faithful[place.end() :]


def unrelated(material: Material, random: Random) -> str | None:
    """Another article."""
    return material.other


def copy(material: Material, random: Random) -> str | None:
    """The source as it is, or with one synonym."""
    if random.random() < 0.5:
        return material.source
    for word, other in tables()["synonyms"].items():
        if re.search(rf"\b{word}\b", material.source):
            return re.sub(rf"\b{word}\b", other, material.source, count=1)
    return material.source


def wrong_language(material: Material, random: Random) -> str | None:
    """A summary in Spanish or French."""
    return material.foreign


def truncated(material: Material, random: Random) -> str | None:
    """The end missing, in the middle of a sentence."""
    words = material.faithful.split()
    if len(words) < 10:
        return None
    return " ".join(words[: int(len(words) * random.uniform(0.6, 0.95))]).rstrip(".,;:!?\"”')]")


def repeated(material: Material, random: Random) -> str | None:
    """The last sentence, or its last words, three times more."""
    if random.random() < 0.5:
        return f"{material.faithful} {' '.join([facts.sentences(material.faithful)[-1]] * 3)}"
    words = material.faithful.rstrip(".").split()
    return " ".join([*words, *(words[-5:] * 3)]) + "."


def wrong_operator(material: Material, random: Random) -> str | None:
    """Another operation in an equation."""
    places = list(re.finditer(r"(?<=\d )[-+*×/](?= \d[^=\n]*=)|(?<== \d )[×](?= \d)", material.faithful))
    if not places:
        return None
    place = random.choice(places)
    other = random.choice([sign for sign in "+-*/" if sign not in (place[0], "*" if place[0] == "×" else "")])
    return material.faithful[: place.start()] + other + material.faithful[place.end() :]


KNOWLEDGE: tuple[Fault, ...] = (
    swapped_names, swapped_numbers, foreign_name, changed_number, changed_date, dropped_sentence, dropped_clause,
    added_sentence, invented_clause, negated, reversed_relation, unrelated, copy, wrong_language, truncated, repeated,
)  # fmt: skip
MATH: tuple[Fault, ...] = (
    swapped_numbers, changed_number, wrong_operator, dropped_sentence, added_sentence, invented_clause, negated,
    unrelated, copy, wrong_language, truncated, repeated,
)  # fmt: skip


def _name_matches(text: str, common: frozenset[str]) -> list[re.Match[str]]:
    names = facts.names(text, common)
    return [
        match for match in _NAME.finditer(text)
        if (words := set(facts.words(match[0]))) & names
        and words <= names | {"of", "the", "de", "van", "von"} and match[0] not in MONTHS
    ]  # fmt: skip


def _own_names(material: Material) -> list[re.Match[str]]:
    """Names of the faithful rewrite that are names in the source too, not words that a rule put first."""
    names = facts.names(material.source, material.common)
    found = _name_matches(material.faithful, material.common)
    return [match for match in found if set(facts.words(match[0])) & names]


def _date_numbers(text: str) -> list[re.Match[str]]:
    found = [match for match in re.finditer(r"(?<![\w.,])(?:1\d{3}|20\d{2})(?!\w|[.,]\d)", text)]
    return found + list(re.finditer(rf"(?<!\w)\d{{1,2}}(?= {MONTH})", text))


def _other_number(material: Material, places: list[re.Match[str]], random: Random) -> str | None:
    known = facts.numbers(material.source) | facts.numbers(material.faithful)
    text = material.faithful
    for place in random.sample(places, len(places)):
        for _ in range(20):
            at = random.randrange(len(place[0]))
            digit = random.choice("123456789")
            number = place[0][:at] + digit + place[0][at + 1 :]
            if place[0][at] != "." and not facts.numbers(number) & known:
                return text[: place.start()] + number + text[place.end() :]
    return None


def _swap(text: str, found: list[re.Match[str]], random: Random) -> str | None:
    pairs = [
        (a, b) for a, b in combinations(found, 2)
        if not set(facts.words(a[0])) & set(facts.words(b[0])) and a[0] != b[0] and _apart(text[a.end() : b.start()])
    ]  # fmt: skip
    if not pairs:
        return None
    a, b = random.choice(pairs)
    exchange = {a[0]: b[0], b[0]: a[0]}
    pattern = r"(?<![\w.])(" + "|".join(sorted(map(re.escape, exchange), key=len, reverse=True)) + r")(?![\w]|[.,]\d)"
    return re.sub(pattern, lambda match: exchange[match[1]], text)


def _apart(between: str) -> bool:
    """Whether more than a list or an apposition ("A, also called B") lies between."""
    return len([word for word in re.findall(r"\b[a-z]+\b", between) if word not in _LIST_WORDS]) >= 2
