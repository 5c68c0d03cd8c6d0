"""Whether a heading (a question, a row's name, a step's title) claims what its source does not say.

A heading is too short for the gate's scores, and may say nothing of the source at all. It must invent and deny nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import Vocabulary
from k2core.synthesis.fidelity.inventions import words_invented

WORDS = 5
"""Most consecutive words of which the source has no form: what asks or leads on ("What should one know first?")."""


def false_heading(source: str, headings: Sequence[str], common: frozenset[str]) -> bool:
    """Whether one of `headings` has a number, a name or a run of words that `source` lacks, or more denials than it.

    The first word of a heading is never a name: "Get" and "Why" are as rare as names in an encyclopedia's sentences.

    Args:
        common: `facts.common_words` of the corpus; in a heading these are no names, though many write each word with a
            capital.
    """
    known, numbers, denials = Vocabulary(facts.words(source)), facts.numbers(source), facts.negations(source)
    return any(
        facts.numbers(heading) - numbers
        or any(name not in known for name in facts.names(heading[:1].lower() + heading[1:], common) - common)
        or facts.negations(heading) > denials
        or words_invented(source, heading) > WORDS
        for heading in headings
    )
