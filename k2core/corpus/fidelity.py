"""The fidelity gate: a rewrite passes if it says what its source says, and says it in other words (K2 §2.2).

K2 checks "semantic alignment" of rewrite and source. A small model fails in plainer ways first: it drops a name,
changes a number, adds a sentence, repeats the source, or answers something else; each has a score of its own here.
What the gate cannot see: a relation turned round between names that are all kept, and a false claim made of the
source's own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from k2core.corpus import facts
from k2core.corpus.filters import language
from k2core.recipe import Section

ACCEPTED = "accepted"
_LANGUAGE_CHARACTERS = 500
_DIGITS = 4
"""Scores are rounded: the last bits of an embedding depend on the batch it was made in."""


class GateLimits(Section):
    """What a rewrite of one domain must reach; the fields are the scores of a verdict."""

    numbers_kept: float = Field(ge=0, le=1, description="least share of the source's numbers in the rewrite")
    numbers_invented: int = Field(ge=0, description="numbers at most that the source does not have")
    names_kept: float = Field(ge=0, le=1, description="least share of the source's names in the rewrite")
    names_invented: int = Field(ge=0, description="names at most that the source does not have")
    length_ratio: tuple[float, float] = Field(description="least and greatest length, as a share of the source's")
    copied: float = Field(ge=0, le=1, description="greatest share of the rewrite's 5-grams that stand in the source")
    language_score: float = Field(ge=0, le=1, description="least probability that both texts share a language")
    similarity: float = Field(ge=-1, le=1, description="least cosine similarity of the two texts' embeddings")
    support: float = Field(
        ge=-1, le=1, description="least cosine similarity of any sentence to its nearest sentence of the source"
    )


@dataclass(frozen=True)
class Verdict:
    """`reason` is `accepted` or the first limit that was missed; `scores` holds every score."""

    accepted: bool
    reason: str
    scores: dict[str, float]


SCORES = tuple(GateLimits.model_fields)


def judge(source: str, rewrite: str, limits: GateLimits, common: frozenset[str]) -> Verdict:
    """Hold `rewrite` against `source`; `common` are `facts.common_words` of the corpus.

    Without text there is nothing to embed: an empty rewrite is rejected as `empty`, its scores are 0.
    """
    if not rewrite.strip():
        return Verdict(False, "empty", dict.fromkeys(SCORES, 0.0))
    scores = {name: round(value, _DIGITS) for name, value in _scores(source, rewrite, common).items()}
    reason = _first_miss(scores, limits)
    return Verdict(reason is None, reason or ACCEPTED, scores)


def _first_miss(scores: dict[str, float], limits: GateLimits) -> str | None:
    low, high = limits.length_ratio
    held = {
        "language_score": scores["language_score"] >= limits.language_score,
        "length_ratio": low <= scores["length_ratio"] <= high,
        "copied": scores["copied"] <= limits.copied,
        "numbers_kept": scores["numbers_kept"] >= limits.numbers_kept,
        "numbers_invented": scores["numbers_invented"] <= limits.numbers_invented,
        "names_kept": scores["names_kept"] >= limits.names_kept,
        "names_invented": scores["names_invented"] <= limits.names_invented,
        "similarity": scores["similarity"] >= limits.similarity,
        "support": scores["support"] >= limits.support,
    }
    return next((name for name, passed in held.items() if not passed), None)


def _scores(source: str, rewrite: str, common: frozenset[str]) -> dict[str, float]:
    numbers, new_numbers = facts.numbers(source), facts.numbers(rewrite)
    source_words, new_words = facts.words(source), facts.words(rewrite)
    names = facts.names(source, common)
    known = set(source_words)
    invented = {name for name in facts.names(rewrite, common) if not _occurs(name, known)}
    return {
        "numbers_kept": _share(numbers & new_numbers, numbers),
        "numbers_invented": float(len(new_numbers - numbers)),
        "names_kept": _share({name for name in names if _occurs(name, set(new_words))}, names),
        "names_invented": float(len(invented)),
        "length_ratio": len(rewrite) / max(1, len(source)),
        "copied": _copied(source_words, new_words),
        "language_score": _same_language(source, rewrite),
        **_semantic(source, rewrite),
    }


def _share(part: set[str], whole: set[str]) -> float:
    return len(part) / len(whole) if whole else 1.0


def _occurs(name: str, vocabulary: set[str]) -> bool:
    """Whether `name` or a form of it (American, Americans; Rome, Roman's) stands in `vocabulary`."""
    if name in vocabulary or name.rstrip("s") in vocabulary or name + "s" in vocabulary:
        return True
    stem = name[: max(5, len(name) - 3)]
    return len(name) > 5 and any(word.startswith(stem) for word in vocabulary)


def _copied(source: list[str], rewrite: list[str], n: int = 5) -> float:
    grams = [tuple(rewrite[i : i + n]) for i in range(len(rewrite) - n + 1)]
    known = {tuple(source[i : i + n]) for i in range(len(source) - n + 1)}
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0


def _same_language(source: str, rewrite: str) -> float:
    expected, _ = language.detect(source, _LANGUAGE_CHARACTERS)
    found, score = language.detect(rewrite, _LANGUAGE_CHARACTERS)
    return score if found == expected else 0.0


def _semantic(source: str, rewrite: str) -> dict[str, float]:
    from k2core.corpus.embedding import embed

    ours, theirs = facts.sentences(rewrite), facts.sentences(source)
    vectors: Any = embed([source, rewrite, *theirs, *ours])
    near = vectors[2 + len(theirs) :] @ vectors[2 : 2 + len(theirs)].T  # (sentences of rewrite, of source)
    return {"similarity": float(vectors[0] @ vectors[1]), "support": float(near.max(dim=1).values.min())}
