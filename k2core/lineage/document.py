"""One document both ways: back to where it came from, forward through the data stages into the training steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from k2core.lineage.chain import Chain
from k2core.lineage.corpus import Corpus
from k2core.lineage.fate import Fate
from k2core.lineage.seen import read_by_later_stages, read_by_phases, tokenized
from k2core.lineage.text import first_line
from k2core.lineage.training import Training

Told = tuple[str, str]
"""What a line is about (a stage, a property), and what it says."""


def story(chain: Chain, wanted: str) -> Iterator[str]:
    """Lines about the document `wanted`, an id or the beginning of one.

    Raises:
        StorageError: there is no such document, or what the stages left does not fit together.
    """
    corpus = Corpus(chain)
    fate = Fate(corpus, corpus.complete(wanted))
    yield fate.id
    yield from _block("where it comes from", _back(corpus, fate))
    yield from _block("what the data stages made of it", fate.told())
    if "tokenize" in chain.stages:
        training = Training(chain)
        phases = list(training.phases())
        made = {name: training.place(name) for name in (fate.id, *fate.made_of_it())}
        yield from _block(
            "what was trained on it",
            [
                *tokenized(chain, made[fate.id]),
                *read_by_phases(training, phases, made, fate.id),
                *read_by_later_stages(chain, phases, made[fate.id]),
            ],
        )


def _back(corpus: Corpus, fate: Fate) -> Iterator[Told]:
    """The document's origin; for a rewrite or a question, that of each document it was made from."""
    if fate.made:
        yield "made by", f"{fate.made.stage}, {fate.made.how}"
        yield "text", first_line(fate.made.text)
    for id in fate.made.of if fate.made else (fate.id,):
        if fate.made:
            yield "made of", id
        for row in corpus.rows("ingest", "*.parquet", "id", id):
            yield "source", f"{row['source']} ({row['table']}, row {row['row']:,})"
            yield "origin", row["origin"] + (f", {row['date']}" if row["date"] else "")
            yield "licence", f"{row['license']}, {row['attribution']}"
            yield "text", f"{first_line(row['text'])} ({row['domain']}, {len(row['text']):,} characters)"


def _block(title: str, told: Iterable[Told]) -> Iterator[str]:
    """A title, and below it a line for each thing told; lines that say the same are one."""
    labels: dict[str, list[str]] = {}
    for name, text in told:
        labels.setdefault(text, []).append(name)
    width = max((len(", ".join(names)) for names in labels.values()), default=0)
    yield f"\n{title}"
    for text, names in labels.items():
        yield f"  {', '.join(names):{width}}  {text}".rstrip()
