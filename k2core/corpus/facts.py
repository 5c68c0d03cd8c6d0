"""What a text states, as far as it can be read off the surface: its numbers, its names, its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”')\]]*\s+(?=[\"“'(\[]*[A-Z0-9])|\n+")
_CLAUSE_END = re.compile(r":\s+")
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Dr|St|Jr|Sr|No|vs|c|ca|e\.g|i\.e|[ap]\.m|[A-Z]\.[A-Z]))\.$")
# fmt: off
_SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_SMALL)}
_NUMBER_WORDS |= {word: str(10 * value) for value, word in enumerate(_TENS, 2)}
_AMBIGUOUS = {"one", "zero"}
"""Pronoun and idiom more often than number."""


def numbers(text: str) -> set[str]:
    """The numbers of a text, written one way: `1,024` is `1024`, `twelve` is `12`, `2.50` is `2.5`.

    Parts of dates are numbers too; the names of months count as names.
    """
    found = {_plain(number) for number in _NUMBER.findall(text)}
    words = {word.lower() for word in _WORD.findall(text)} - _AMBIGUOUS
    return found | {_NUMBER_WORDS[word] for word in words & _NUMBER_WORDS.keys()}


def _plain(number: str) -> str:
    digits = number.replace(",", "")
    whole, dot, rest = digits.partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (dot + rest if rest else "")


def sentences(text: str) -> list[str]:
    """Sentences and lines, initials and common abbreviations kept inside."""
    parts: list[str] = []
    for piece in _SENTENCE_END.split(text):
        if not piece.strip():
            continue
        if parts and _ABBREVIATION.search(parts[-1]):
            parts[-1] += " " + piece.strip()
        else:
            parts.append(piece.strip())
    return parts


def words(text: str) -> list[str]:
    """Words in lower case, without possessive endings."""
    return [_base(word).lower() for word in _WORD.findall(text)]


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """Words that `texts` write with a small letter: at the start of a sentence these are no names."""
    return frozenset(_base(word) for text in texts for word in _WORD.findall(text) if word[0].islower())


def names(text: str, common: frozenset[str]) -> set[str]:
    """Words that name something (people, places, months, titles), in lower case.

    Inside a clause that is every capitalised word; the first word (also after a colon) counts unless `common` knows
    it with a small letter. Without a dictionary of names this takes "Modernism" for one, which a faithful rewrite
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
