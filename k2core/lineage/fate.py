"""What the data stages made of a document: kept, or removed for which reason; and what was made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from k2core.corpus.curation import CONTAMINATED, EXACT, NEAR, PARAGRAPHS, UNTAGGED
from k2core.lineage.chain import settings
from k2core.lineage.corpus import Corpus, Row, rewrite_id
from k2core.lineage.text import first_line, some

GRADES = ("rules", "classifier", "embedding", "llm")
"""Parts of the quality score in `data/quality`."""


@dataclass(frozen=True)
class Made:
    """A document that was made from another one.

    Attributes:
        stage: the stage that made it; `how`, in words.
        of: ids of the document that it was made from, or of both.
        kept: whether it became a document that is trained on; `ended`, in words.
    """

    id: str
    stage: str
    how: str
    of: tuple[str, ...]
    text: str
    kept: bool
    ended: str


class Fate:
    """The way of the document `id` through the tables of the corpus.

    Attributes:
        made: how it was made, of which document; None for a document of a source.
    """

    def __init__(self, corpus: Corpus, id: str) -> None:
        self.corpus, self.id = corpus, id
        self._ingested = corpus.rows("ingest", "*.parquet", "id", id)
        self.made = None if self._ingested else next(made for made in self._all_made() if made.id == id)

    def made_of_it(self) -> list[str]:
        """Ids of the documents that were made from this one and kept."""
        return [made.id for made in self._all_made() if self.id in made.of and made.kept]

    def told(self) -> Iterator[tuple[str, str]]:
        """What became of the document, stage by stage."""
        if self.made:
            yield self.made.stage, self.made.ended
            return
        for row in self.corpus.rows("tag", "*.parquet", "id", self.id):
            yield "tag", f"language {row['language']} ({row['language_score']:.2f}), {row['words']:,.0f} words"
        for row in self.corpus.rows("grade", "*.parquet", "id", self.id):
            parts = ", ".join(f"{name} {row[name]:.3g}" for name in GRADES if row[name] is not None)
            yield "grade", f"quality {row['quality']:.3g} of 1 ({parts})"
        for row in self.corpus.rows("curate", "documents.parquet", "id", self.id):
            lost = len(self._ingested[0]["text"]) - len(row["text"])
            cut = f"; cut out: {lost:,} characters of paragraphs found in better documents" if lost else ""
            yield "curate", f"kept, split {row['split']}, sampling rate {row['rate']:g}{cut}"
        for row in self.corpus.rows("curate", "rejected.parquet", "id", self.id):
            yield "curate", f"removed, {self._reason(row)}"
            if row["passage"]:
                yield "", f"the passage: {first_line(row['passage'])}"
        yield from (("", line) for line in self._duplicates())
        for made in self._all_made():
            if self.id in made.of:
                yield made.stage, f"{made.id}: {made.ended}"

    def _all_made(self) -> Iterator[Made]:
        """Every rewrite and question that was made, kept or not."""
        for row in self.corpus.rows("rephrase", "verdicts.parquet"):
            perspective = f", perspective {row['perspective']}" if row["perspective"] else ""
            ended = "kept" if row["accepted"] else f"removed by the gate, {_verdict(row)}"
            name, how = rewrite_id(row["style"], row["number"], row["source_id"]), f"style {row['style']}{perspective}"
            of = tuple(filter(None, (row["source_id"], row["linked_id"])))
            yield Made(name, "rephrase", how, of, row["rewrite"], row["accepted"], ended)
        for table in ("documents.parquet", "rejected.parquet"):
            for row in self.corpus.rows("questions", table):
                reason = row.get("reason")
                ended = f"removed, {reason}" if reason else "kept"
                how = f"maker {row['source'].partition('/')[2]}"
                yield Made(row["id"], "questions", how, (row["origin"],), row["text"], not reason, ended)
        for row in self.corpus.rows("recall", "documents.parquet"):
            how = f"kind {row['source'].partition('/')[2]}"
            yield Made(row["id"], "recall", how, (row["origin"],), row["text"], True, "kept")

    def _reason(self, row: Row) -> str:
        """Why curation removed the document, in words."""
        reason, score, matched = row["reason"], row["score"], row["matched"]
        words = {
            EXACT: f"its text is that of {matched}",
            NEAR: f"similarity {score:.2f} with {matched}",
            PARAGRAPHS: f"{score:.0%} of it is in better documents, first in {matched}",
            UNTAGGED: f"a signal failed on it ({row['passage']})",
            CONTAMINATED: f"it holds {score:.0%} of the words of {matched}",
        }
        if reason in words:
            return f"{reason}: {words[reason]}"
        rules = settings(self.corpus.chain.stages["curate"])["curate"]["rules"][row["domain"]]
        if reason == "language":
            return f"{reason}: not {' or '.join(rules['languages'])} (score {score:.2f})"
        bounds = [(word, rules["attributes"][reason].get(key)) for word, key in (("least", "min"), ("most", "max"))]
        allowed = " and ".join(f"at {word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"{reason}: {score:.4g}, the rule for {row['domain']} says {allowed}"

    def _duplicates(self) -> Iterator[str]:
        """The document that stands for a duplicate, and the other duplicates of that document."""
        stands: dict[str, str] = {}
        for _, columns in self.corpus.columns("curate", "rejected.parquet", ["id", "reason", "matched"]):
            rows = zip(*columns.values(), strict=True)
            stands |= {name: matched for name, reason, matched in rows if reason in (EXACT, NEAR)}

        def kept(name: str) -> str:
            while name in stands:
                name = stands[name]
            return name

        others = [name for name in stands if name != self.id and kept(name) == kept(self.id)]
        if others:
            whose = f"other duplicates of {kept(self.id)}" if self.id in stands else "stands for its duplicates"
            yield f"{whose}: {some(others)}"


def _verdict(row: Row) -> str:
    """The score that a rewrite failed by, or the other reason."""
    reason = row["reason"]
    return f"{reason} {row[reason]:.3g}" if isinstance(row.get(reason), float) else reason
