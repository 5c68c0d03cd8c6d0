"""Consecutive words of a rewrite that its source does not have: a made-up clause."""

from __future__ import annotations

import re

from k2core.synthesis.fidelity import facts

_BREAKS = re.compile(r"[.,:;!?()=+*/]|\d+")
_LEAST_WORD, _LEAST_STEM, _ENDING = 3, 4, 3


def words_invented(source: str, rewrite: str) -> int:
    """The longest run of words within a clause of `rewrite` of which `source` has no form; function words aside.

    A synonym is a run of one word, a linking phrase ("we are told the following") of about two.
    """
    known = {stem(word) for word in facts.words(source)}
    longest = 0
    for clause in (part for sentence in facts.sentences(rewrite) for part in _BREAKS.split(sentence)):
        run = 0
        for word in facts.words(clause):
            if word in facts.FUNCTION_WORDS or len(word) < _LEAST_WORD:
                continue
            run = 0 if stem(word) in known else run + 1
            longest = max(longest, run)
    return longest


def stem(word: str) -> str:
    """A rough stem: a word in lower case without its last letters (girls, girl's; producing, produced)."""
    return word[: max(_LEAST_STEM, len(word) - _ENDING)]
