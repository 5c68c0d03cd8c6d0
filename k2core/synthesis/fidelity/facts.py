"""What a text states, as far as it can be read off the surface: numbers, names, equations, negations, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”')\]]*\s+(?=[\"“'(\[]*[A-Z0-9])|\n+")
_CLAUSE_END = re.compile(r":\s+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Dr|St|Jr|Sr|No|Op|Prof|Gen|Lt|Col|Rev|Inc|Ltd|vs|c|ca|e\.g|i\.e|[ap]\.m|[A-Z]\.[A-Z]))\.$"
)
# fmt: off
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# fmt: off
ORDINALS = {
    "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10,
    "eleventh": 11, "twelfth": 12, "twentieth": 20, "thirtieth": 30,
} | {f"{word}th": value for value, word in enumerate(SMALL) if value > 12}
# fmt: on
VALUES = {word: value for value, word in enumerate(SMALL)} | {word: 10 * tens for tens, word in enumerate(_TENS, 2)}
VALUES |= ORDINALS
_FOREIGN = {
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis "
    "diecisiete dieciocho diecinueve veinte",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
    "dix-huit dix-neuf vingt",
}
"""Number words of the languages that are translated; zero and one are left out, as in English."""
_AMBIGUOUS = {"one", "zero", "hundred", "thousand"}
"""Alone, these are more often pronouns or idiom than numbers."""
_TERM = r"\(*[$€£]?-?[$€£]?\d+(?:,\d{3})*(?:\.\d+)?%?\)*"
_SIDE = rf"{_TERM}(?:\s*[-+*/×÷x]\s*{_TERM})*"
_LEFT, _RIGHT = re.compile(rf"{_SIDE}\s*\Z"), re.compile(rf"\s*{_SIDE}")
_LONGEST_SIDE = 200
_LONGEST_ABBREVIATION = 8
_GREATEST = 10**30
_UNIT = re.compile(r"(?<=\d)\s+(?:[a-z][\w/']*\s+){1,4}(?=[-+*/×÷=]|x )|(?<=\d)/[a-z]+(?=\s)")
"""A unit between a number and an operator: `9 hours * 4`, `€100/hour`."""
# fmt: off
_NEGATIONS = frozenset((
    "not", "no", "never", "none", "neither", "nor", "nobody", "nothing", "nowhere", "without", "cannot", "hardly",
    "rarely", "seldom", "unable", "failed", "fails", "fail", "refused", "denied", "lacks", "lacked",
))
# fmt: on
# fmt: off
FUNCTION_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "being", "but", "by", "for", "from", "had", "has", "have", "he",
    "her", "his", "in", "into", "is", "it", "its", "of", "on", "or", "s", "she", "that", "the", "their", "them", "they",
    "this", "to", "was", "were", "which", "who", "with", "also", "these", "those", "such", "than", "then", "there",
))
# fmt: on
_CONTRACTED = re.compile(r"n['’]t\b", re.IGNORECASE)


def numbers(text: str, language: str = "en") -> set[str]:
    """The numbers of a text, written one way: `1,024` is `1024`, `twelve` is `12`, `2.50` is `2.5`.

    Parts of dates are numbers too; the names of months count as names. Number words are read in English
    (`twenty-five`, `nineteenth`, `three hundred`), Spanish and French (to 20).
    """
    found = {_plain(number) for number in _NUMBER.findall(text)}
    if language in _FOREIGN:
        known = {word: value for value, word in enumerate(_FOREIGN[language].split()) if value > 1}
        return found | {str(known[word]) for word in re.findall(r"[\w-]+", text.lower()) if word in known}
    return found | _spelled(text)


def _spelled(text: str) -> set[str]:
    found: set[str] = set()
    run: list[str] = []
    for token in [*re.findall(r"[^\W\d_]+|\d[\d,.]*|[^\w\s]", text.lower()), "."]:
        if token in VALUES or (token in _LARGE and (run or token not in _AMBIGUOUS)):
            run.append(token)
        elif run and token in ("and", "-") and run[-1] != "and":
            if token == "and" and run[-1] not in _LARGE:
                found |= _value(run)
                run = []
        elif run:
            found |= _value(run)
            run = []
    return found


def _value(run: list[str]) -> set[str]:
    """{312} for `three hundred twelve`; {2, 3} for `two three`."""
    if len(run) == 1 and (run[0] in _AMBIGUOUS or run[0] in _LARGE):
        return set()
    values: list[int] = []
    last = 0
    for word in run:
        if word in _LARGE:
            if values:
                values[-1] = min(values[-1] * _LARGE[word], _GREATEST)
            last = 0
            continue
        value = VALUES[word]
        if values and ((values[-1] % 100 >= 20 and values[-1] % 10 == 0 and value < 10) or (last == 0 and value < 100)):
            values[-1] += value
        else:
            values.append(value)
        last = value
    return {str(value) for value in values}


def _plain(number: str) -> str:
    digits = number.replace(",", "")
    whole, dot, rest = digits.partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (dot + rest if rest else "")


def sentences(text: str) -> list[str]:
    """Sentences and lines, initials and common abbreviations kept inside."""
    parts: list[list[str]] = []
    for piece in map(str.strip, _SENTENCE_END.split(text)):
        if not piece:
            continue
        if parts and _ABBREVIATION.search(parts[-1][-1][-_LONGEST_ABBREVIATION:]):
            parts[-1].append(piece)
        else:
            parts.append([piece])
    return [" ".join(pieces) for pieces in parts]


def words(text: str) -> list[str]:
    """Words in lower case, without possessive endings."""
    return [_base(word).lower() for word in _WORD.findall(text)]


def equations(text: str) -> set[str]:
    """Equations between numbers, without spaces, units and currencies: `4 boxes * 12 = 48 pencils` is `4*12=48`."""
    found = set()
    for line in sentences(text):
        for match in _equations_of(_UNIT.sub(" ", line)):
            sides = re.sub("[×x]", "*", re.sub(r"[\s,$€£]", "", match)).replace("÷", "/").split("=")
            if any(re.search(r"\d[-+*/]", side) for side in sides):
                found.add("=".join(sides))
    return found


def _equations_of(line: str) -> Iterator[str]:
    """The equations of a line as written, found around each `=`: from the left, it takes quadratic time."""
    end, at = 0, line.find("=")
    while at >= 0:
        left = _LEFT.search(line, max(end, at - _LONGEST_SIDE), at)
        right = left and _RIGHT.match(line, at + 1)
        if left and right:
            end = right.end()
            yield line[left.start() : end]
        at = line.find("=", max(end, at + 1))


def negations(text: str) -> int:
    """Words that deny: not, never, without, isn't."""
    return sum(word in _NEGATIONS for word in words(text)) + len(_CONTRACTED.findall(text))


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """Words that `texts` write in lower case: at the start of a sentence these are not names."""
    return frozenset(_base(word) for text in texts for word in _WORD.findall(text) if word[0].islower())


def names(text: str, common: frozenset[str]) -> set[str]:
    """Words that name something (people, places, months, titles), in lower case.

    Inside a clause that is every capitalised word; the first word (also after a colon) counts unless `common` has
    it in lower case. Without a dictionary of names this takes "Modernism" for one, which a faithful rewrite
    keeps as well.
    """
    found = set()
    for clause in (clause for sentence in sentences(text) for clause in _CLAUSE_END.split(sentence)):
        for place, word in enumerate(_base(word) for word in _WORD.findall(clause)):
            if word[0].isupper() and len(word) > 1 and (place > 0 or word.lower() not in common):
                found.add(word.lower())
    return found - {"i"}


def _base(word: str) -> str:
    return re.sub(r"['’]s?$|['’]\w+$", "", word) or word
