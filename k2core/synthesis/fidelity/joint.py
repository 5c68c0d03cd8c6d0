"""What is asked and answered of two texts: whether each question needs both, and whether something is denied."""

from __future__ import annotations

import re

from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.inventions import stem

ONE_TEXT, DENIAL = "one_text", "denial"
_QUESTION = re.compile(r"^Question: ", re.MULTILINE)


def joint_fault(first: str, second: str, rewrite: str, titles: str) -> str:
    """`ONE_TEXT`: a question needs one of the texts alone; `DENIAL`: more denials than both texts have; else empty.

    Fewer denials are no fault: questions need not tell all of either text.

    Args:
        titles: what the texts are about; to name it shows nothing of either.
    """
    if not needs_both(first, second, rewrite, titles):
        return ONE_TEXT
    return DENIAL if facts.negations(rewrite) > facts.negations(first) + facts.negations(second) else ""


def needs_both(first: str, second: str, rewrite: str, titles: str) -> bool:
    """Whether each question of `rewrite`, with its answer, says something of each text that the other lacks.

    A question is a line that begins with `Question: `; a rewrite without one needs neither text. Words are compared by
    their stems. It is not seen whether an answer could have done with one of the two texts.
    """
    theirs, others, named = _words(first), _words(second), _words(titles)
    owns = [theirs - others - named, others - theirs - named]
    asked = _QUESTION.split(rewrite)[1:]
    return bool(asked) and all(own & _words(pair) for pair in asked for own in owns)


def _words(text: str) -> set[str]:
    """Stems of the words that carry meaning, and numbers."""
    return {stem(word) for word in facts.words(text) if word not in facts.FUNCTION_WORDS} | facts.numbers(text)
