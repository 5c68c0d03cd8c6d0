"""The sources behind an artifact: where each comes from, under which licences, and how much of it was kept."""

from __future__ import annotations

import importlib.metadata as metadata
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from k2core.lineage.chain import Chain
from k2core.lineage.corpus import Corpus
from k2core.report.card import Source, read_card
from k2core.storage import StorageError

BUILT_IN = "built in"
MOST = 6
"""Packages and reasons that are spelled out, the most frequent."""
_PACKAGE = re.compile(r"pypi:([^:]+)|(cpython-[\d.]+)")
_NAMED = re.compile(r"`([\w.-]+)`")


@dataclass
class SourceLineage:
    """One source, what curation made of it, and what language models made from it.

    Attributes:
        card: what the data card says of it.
        packages: documents by package and version, for sources that are built in.
        splits: kept documents by split; `kept_characters` of all of them.
        removed: documents by the reason for their removal.
        rewrites: rewrites that were made from its documents, and of them `accepted`; one of two sources' documents
            counts for both. `questions`: accepted pairs.
    """

    card: Source
    packages: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    kept_characters: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    rewrites: int = 0
    accepted: int = 0
    questions: int = 0

    def lines(self) -> list[str]:
        """The source as a paragraph of lines, an empty one last."""
        card = self.card
        lines = [f"{card.name}: {card.kind}, {card.domain}", f"  from       {card.origin}"]
        if self.packages:
            lines.append(f"  packages   {_ranked(self.packages)}")
        lines.append(f"  licences   {card.licences}")
        aside = f"; set aside: {'; '.join(card.faults)}" if card.faults else ""
        lines.append(f"  read       {card.documents:,} documents, {card.characters:,} characters{aside}")
        if self.splits or self.removed:
            parts = ", ".join(f"{count:,} {split}" for split, count in self.splits.most_common())
            kept = f"{self.splits.total():,} documents ({parts})" if self.splits else "no document"
            lines.append(f"  kept       {kept}, {self.kept_characters:,} characters")
            lines.append(f"  removed    {self.removed.total():,}: {_ranked(self.removed)}" if self.removed else "")
        if self.rewrites:
            lines.append(f"  rewrites   {self.accepted:,} accepted of {self.rewrites:,}")
        if self.questions:
            lines.append(f"  questions  {self.questions:,} question-answer pairs")
        return [*(line for line in lines if line), ""]


def read_sources(chain: Chain) -> list[SourceLineage]:
    """The sources that documents behind the chain's artifact come from, in the order of the data card.

    Raises:
        StorageError: no documents went into the artifact, or a table is missing.
    """
    folder = chain.folder("ingest")
    if folder is None:
        raise StorageError(
            f"{chain.artifact}: no source of documents is behind it; it was made by {', '.join(chain.stages)}"
        )
    corpus = Corpus(chain)
    found = {card.name: SourceLineage(card) for card in read_card(folder / "CARD.md")}
    of: dict[str, str] = {}
    for path, columns in corpus.columns("ingest", "*.parquet", ["id", "origin"]):
        source = found[path.stem]
        of.update(dict.fromkeys(columns["id"], path.stem))
        if source.card.kind == BUILT_IN:
            source.packages.update(_packages(columns["origin"], source.card.origin))
    for _, columns in corpus.columns("curate", "documents.parquet", ["source", "split", "text"]):
        for name, split, text in zip(*columns.values(), strict=True):
            found[name].splits[split] += 1
            found[name].kept_characters += len(text)
    for _, columns in corpus.columns("curate", "rejected.parquet", ["source", "reason"]):
        for name, reason in zip(*columns.values(), strict=True):
            found[name].removed[reason] += 1
    for _, columns in corpus.columns("rephrase", "verdicts.parquet", ["source_id", "linked_id", "accepted"]):
        for name, other, accepted in zip(*columns.values(), strict=True):
            for whose in {of[name], of[other or name]}:
                found[whose].rewrites += 1
                found[whose].accepted += accepted
    for _, columns in corpus.columns("questions", "documents.parquet", ["origin"]):
        for name in columns["origin"]:
            found[of[name]].questions += 1
    return list(found.values())


def _packages(origins: list[str], described: str) -> Iterator[str]:
    """The package and version that each document is from, as its origin states it.

    An address states none; then it is the package that the source's description names, as it is installed here.
    """
    here = ""
    for name in _NAMED.findall(described):
        try:
            here = f"{name}=={metadata.version(name)}"
        except metadata.PackageNotFoundError:
            here = f"{name}, which is not installed here"
    for origin in origins:
        stated = _PACKAGE.match(origin)
        if stated or here:
            yield (stated[1] or stated[2]) if stated else here


def _ranked(counts: Counter[str]) -> str:
    """The most frequent ones, each with its count."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = len(ranked) - MOST
    return ", ".join(f"{name} ({n:,})" for name, n in ranked[:MOST]) + (f", and {more:,} more" if more > 0 else "")
