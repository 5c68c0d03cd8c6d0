"""Labelled sentences: supported by their context, contradicted by it, or about what it does not say.

Contexts are encyclopedia articles less one of their sentences. A supported sentence is one of the context, as it is,
shorter or in other words; a contradicted one has a single fault put into it; an unsupported one is the sentence that
was left out, one with a made-up clause, or one of another article.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.calibration import corrupted
from benchmarks.calibration.corrupted import Fault, Material
from benchmarks.calibration.faithful import faithful, with_synonyms
from k2core.storage import fraction_of
from k2core.synthesis.fidelity import facts

SUPPORTED, CONTRADICTED, UNSUPPORTED = "supported", "contradicted", "unsupported"
CONTRADICTING: tuple[Fault, ...] = (
    corrupted.swapped_names, corrupted.swapped_numbers, corrupted.changed_number, corrupted.changed_date,
    corrupted.negated, corrupted.reversed_relation,
)  # fmt: skip
SYNONYMS = 0.5
"""Share of the words with a synonym that a supported sentence in other words has replaced."""
LEAST = 3
"""Sentences of an article: one is left out of the context."""


@dataclass(frozen=True)
class Labelled:
    """A sentence, its context, and what kind of sentence it is of which label."""

    context: str
    sentence: str
    label: str
    kind: str
    held_out: bool


def labelled(articles: Sequence[tuple[str, str]], seed: int, common: frozenset[str], count: int) -> list[Labelled]:
    """The sentences of the first `count` articles `(id, text)` that are long enough."""
    long = [(name, parts) for name, text in articles if len(parts := facts.sentences(text)) >= LEAST][:count]
    return [each for number in range(len(long)) for each in _of(long, number, seed, common)]


def _of(long: Sequence[tuple[str, list[str]]], number: int, seed: int, common: frozenset[str]) -> Iterator[Labelled]:
    name, parts = long[number]
    random = Random(f"{seed}/{name}")
    held_out = fraction_of(f"{seed}/half/{name}") < 0.5
    left_out = random.randrange(1, len(parts))
    kept = [part for place, part in enumerate(parts) if place != left_out]
    context, other = " ".join(kept), long[(number + 1) % len(long)][1]
    chosen = random.choice(kept)
    reworded = with_synonyms(chosen, random, SYNONYMS)

    def made(sentence: str, label: str, kind: str) -> Labelled:
        return Labelled(context, sentence, label, kind, held_out)

    yield made(chosen, SUPPORTED, "as it is")
    if reworded != chosen:
        yield made(reworded, SUPPORTED, "in other words")
    rewritten = faithful(context, random)
    if rewritten and (own := [part for part in facts.sentences(rewritten) if part not in context]):
        yield made(random.choice(own), SUPPORTED, "of a rewrite")
    material = Material(context, chosen, " ".join(other), "", common)
    shorter = corrupted.dropped_clause(material, random)
    if shorter:
        yield made(shorter, SUPPORTED, "without a clause")
    yield made(parts[left_out], UNSUPPORTED, "left out of the context")
    yield made(random.choice(other), UNSUPPORTED, "of another article")
    for fault in (corrupted.invented_clause, *CONTRADICTING):
        broken = fault(material, Random(f"{seed}/{name}/{fault.__name__}"))
        if broken and broken != chosen and len(facts.sentences(broken)) == 1:
            label = CONTRADICTED if fault in CONTRADICTING else UNSUPPORTED
            yield made(broken, label, fault.__name__.replace("_", " "))
