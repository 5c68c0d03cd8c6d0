"""The fidelity gate: a rewrite passes if it says what its source says, and says it in other words (K2 §2.2).

K2 checks "semantic alignment" of rewrite and source. A small model fails in plainer ways first: it drops a name,
changes a number, adds a clause, reverses a relation, repeats the source or itself, or stops. Each fault has a
score of its own. `benchmarks.calibration` makes the pairs on which limits are chosen and measured; docs/gate.md has
the results, and what the gate does not see.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from k2core.corpus.signals import language as languages
from k2core.llm.reasoning import has_reasoning
from k2core.recipe import FromList, Section
from k2core.synthesis.fidelity import facts

ACCEPTED = "accepted"
LONGEST = 2**15
"""Characters of the longest text that is judged: each word of a rewrite is compared with each of its source."""
_LANGUAGE_CHARACTERS = 500
_DIGITS = 4
"""Scores are rounded: the last bits of an embedding depend on the batch it was made in."""
_ENDS = tuple(".!?…\"”')]:;*")


class GateLimits(Section):
    """What a rewrite of one kind must reach; the fields are the scores of a verdict, in the order they are checked."""

    language_score: float = Field(ge=0, le=1, description="least probability that the rewrite is in its language")
    length_ratio: FromList[tuple[float, float]] = Field(
        description="least and greatest length, as a share of the source's"
    )
    finished: float = Field(ge=0, le=1, description="least: 1 where the rewrite must end with a whole sentence")
    repeated: float = Field(ge=0, le=1, description="greatest share of the rewrite's 5-grams that repeat earlier ones")
    copied: float = Field(ge=0, le=1, description="greatest share of the rewrite's 5-grams that are in the source")
    numbers_kept: float = Field(ge=0, le=1, description="least share of the source's numbers in the rewrite")
    numbers_invented: int = Field(ge=0, description="most numbers that the source does not have")
    names_kept: float = Field(ge=0, le=1, description="least share of the source's names in the rewrite")
    names_invented: int = Field(ge=0, description="most names that the source does not have")
    words_invented: int = Field(ge=0, description="most consecutive words of which the source has no form")
    equations_kept: float = Field(ge=0, le=1, description="least share of the source's equations in the rewrite")
    equations_invented: int = Field(ge=0, description="most equations that the source does not have")
    negations_changed: int = Field(ge=0, description="greatest difference in the number of negating words")
    opposites: int = Field(ge=0, description="most words whose opposite (before, after) the source has instead")
    roles: float = Field(ge=-1, le=1, description="least likeness of contexts of names and numbers (exchanged: < 0)")
    similarity: float = Field(ge=-1, le=1, description="least cosine similarity of the two texts' embeddings")
    coverage: float = Field(ge=-1, le=1, description="least likeness of any 5 words of the source to the rewrite")
    support: float = Field(ge=-1, le=1, description="least likeness of any 5 words of the rewrite to the source")


@dataclass(frozen=True)
class Verdict:
    """`reason` is `accepted` or the first limit that was missed; `scores` holds every score."""

    accepted: bool
    reason: str
    scores: dict[str, float]


SCORES = tuple(GateLimits.model_fields)
AT_MOST = frozenset((
    "repeated", "copied", "numbers_invented", "names_invented", "words_invented", "equations_invented",
    "negations_changed", "opposites",
))  # fmt: skip
"""Scores with an upper limit; `length_ratio` has two limits, all others a lower one."""


def judge(
    source: str, rewrite: str, limits: GateLimits, common: frozenset[str], language: str | None = None
) -> Verdict:
    """Judge `rewrite` against `source`.

    Without text there is nothing to embed: an empty rewrite is rejected as `empty`, its scores are 0. So are those of
    texts beyond `LONGEST` (`too_long`) and of a rewrite that contains reasoning (`reasoning`).

    Args:
        common: `facts.common_words` of the corpus.
        language: ISO 639 code of the language that the rewrite must be in; None for the source's own.
    """
    reason = "reasoning" if has_reasoning(rewrite) else "too_long" if max(len(source), len(rewrite)) > LONGEST else ""
    if reason:
        return Verdict(False, reason, dict.fromkeys(SCORES, 0.0))
    return verdict(measure([(source, rewrite)], common, language)[0], limits)


def verdict(scores: dict[str, float], limits: GateLimits) -> Verdict:
    """The verdict on a rewrite with these scores."""
    if scores["length_ratio"] == 0:
        return Verdict(False, "empty", scores)
    reason = next((name for name in SCORES if not within(scores[name], name, limits)), None)
    return Verdict(reason is None, reason or ACCEPTED, scores)


def within(score: float, name: str, limits: GateLimits) -> bool:
    """Whether a score of that name is inside its limit."""
    limit = getattr(limits, name)
    if name == "length_ratio":
        return limit[0] <= score <= limit[1]
    return score <= limit if name in AT_MOST else score >= limit


def measure(
    pairs: Sequence[tuple[str, str]], common: frozenset[str], language: str | None = None
) -> list[dict[str, float]]:
    """All scores of (source, rewrite) pairs; sentences that several pairs share are embedded once."""
    from k2core.synthesis.fidelity.embedding import embed_tokens

    written = [(source, rewrite) for source, rewrite in pairs if rewrite.strip()]
    vectors = embed_tokens([sentence for pair in written for text in pair for sentence in facts.sentences(text)])
    return [
        {name: round(float(value), _DIGITS) for name, value in _scores(source, rewrite, common, language, vectors)}
        if rewrite.strip()
        else dict.fromkeys(SCORES, 0.0)
        for source, rewrite in pairs
    ]  # fmt: skip


def _scores(
    source: str, rewrite: str, common: frozenset[str], language: str | None, vectors: Any
) -> list[tuple[str, float]]:
    from k2core.synthesis.fidelity.alignment import alignment
    from k2core.synthesis.fidelity.inventions import words_invented
    from k2core.synthesis.fidelity.opposites import opposites
    from k2core.synthesis.fidelity.roles import roles

    own, _ = languages.detect(source, _LANGUAGE_CHARACTERS)
    numbers, new_numbers = facts.numbers(source, own), facts.numbers(rewrite, language or own)
    equations, new_equations = facts.equations(source), facts.equations(rewrite)
    source_words, new_words = facts.words(source), facts.words(rewrite)
    known, new_known = Vocabulary(source_words), Vocabulary(new_words)
    names = facts.names(source, common)
    invented = {name for name in facts.names(rewrite, common) if name not in known}
    scores = {
        "language_score": _in_language(rewrite, language or own),
        "length_ratio": len(rewrite) / max(1, len(source)),
        "finished": rewrite.rstrip().endswith(_ENDS),
        "repeated": _repeated(re.findall(r"\w+", rewrite.lower())),
        "copied": copied(source_words, new_words),
        "numbers_kept": _share(numbers & new_numbers, numbers),
        "numbers_invented": len(new_numbers - numbers),
        "names_kept": _share({name for name in names if name in new_known}, names),
        "names_invented": len(invented),
        "words_invented": words_invented(source, rewrite),
        "equations_kept": _share(equations & new_equations, equations),
        "equations_invented": len(new_equations - equations),
        "negations_changed": abs(facts.negations(rewrite) - facts.negations(source)),
        "opposites": len(opposites(source, rewrite)),
        "roles": roles(source, rewrite, common),
        **alignment(source, rewrite, vectors),
    }
    return [(name, scores[name]) for name in SCORES]


def _share(part: set[str], whole: set[str]) -> float:
    return len(part) / len(whole) if whole else 1.0


class Vocabulary:
    """A set of words; a name is in it if the name or a form of it (American, Americans; Rome, Roman's) is."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = set(words)
        self._ordered = sorted(self._words)

    def __contains__(self, name: str) -> bool:
        if name in self._words or name.rstrip("s") in self._words or name + "s" in self._words:
            return True
        stem = name[: max(5, len(name) - 3)]
        place = bisect_left(self._ordered, stem)
        return len(name) > 5 and place < len(self._ordered) and self._ordered[place].startswith(stem)


def copied(source: list[str], rewrite: list[str], n: int = 5) -> float:
    """Share of the n-grams of the words `rewrite` that are in `source`."""
    grams = _grams(rewrite, n)
    known = set(_grams(source, n))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def _repeated(words: list[str], n: int = 5) -> float:
    grams = _grams(words, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _in_language(text: str, expected: str) -> float:
    found, score = languages.detect(text, _LANGUAGE_CHARACTERS)
    return score if found == expected else 0.0
