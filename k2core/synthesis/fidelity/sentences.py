"""Whether each sentence of an answer is supported by its context (K2 §3.2.1's judge of faithfulness, by rules).

The fidelity gate's scores, taken of a sentence: against the whole context, for what it brings in, and against the
sentence of the context that is most like it, for what it turns round. docs/faithfulness.md has the figures by kind of
fault; `python -m benchmarks faithfulness` chooses the limits on one half of its articles and measures on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import measure

Scores = dict[str, float]
SUPPORTED = "supported"
LIMITS: Mapping[str, float] = {
    "whole/numbers_invented": 0, "whole/names_invented": 0, "near/negations_changed": 0, "near/opposites": 0,
    "near/numbers_invented": 0, "near/names_invented": 2, "whole/words_invented": 2, "near/roles": -0.2,
    "whole/support": 0.5,
}  # fmt: skip
"""What a sentence must keep to. `whole` is the context, `near` the sentence of it that supports the sentence most."""
AT_LEAST = ("near/roles", "whole/support")
"""Scores with a lower limit; the others have an upper one."""


def scores(context: str, sentences: Sequence[str], common: frozenset[str]) -> list[Scores]:
    """The scores in `LIMITS` of each sentence.

    Args:
        common: `facts.common_words` of texts like the context.
    """
    if not sentences:
        return []
    parts = [context, *facts.sentences(context)]
    found = iter(measure([(part, sentence) for sentence in sentences for part in parts], common))
    made = []
    for _ in sentences:
        whole, *each = (next(found) for _ in parts)
        near = max(each, key=lambda one: (one["support"], one["similarity"]))
        made.append({name: (whole if name.startswith("whole") else near)[name.partition("/")[2]] for name in LIMITS})
    return made


def fault(score: Scores, limits: Mapping[str, float] = LIMITS) -> str:
    """The first limit that a sentence misses, or `SUPPORTED`."""
    for name, limit in limits.items():
        if score[name] < limit if name in AT_LEAST else score[name] > limit:
            return name
    return SUPPORTED


def faults(context: str, answer: str, common: frozenset[str]) -> list[str]:
    """`fault` of each sentence of an answer, in order; one that stands in the context as it is, is supported."""
    own = facts.sentences(answer)
    asked = [sentence for sentence in own if sentence not in context]
    found = dict(zip(asked, map(fault, scores(context, asked, common)), strict=True))
    return [found.get(sentence, SUPPORTED) for sentence in own]
