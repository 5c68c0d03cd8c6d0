"""Sources of the four domains become documents, licence and origin kept (K2 §2.2).

Knowledge: Wikipedia summaries. Code: Python source. Web: package documentation. Mathematics: procedural problems.
What these give depends on the installed packages, which `requirements.txt` fixes, and on the Python release.
`files` adds sources that are data: JSONL, Parquet, text and WARC files on disk or in a bucket, Hugging Face datasets.
What lies outside the repository is watched by the stage `sources`, on which this one depends.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model, field_validator

from k2core.corpus.sources.card import SourceCard, render
from k2core.corpus.sources.collection import collect
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.tables import Tables
from k2core.corpus.workers import Corpus
from k2core.recipe import Section, modules_in
from k2core.stage import Job, Metrics, StageError, main

SECTION = "ingest"
SOURCES = modules_in("k2core.corpus.sources.builtin")
BUILT_IN = "built in"


class _Files(Section):
    """One entry per source; the built-in ones are beside `files`, under their names."""

    shard_characters: int = Field(
        ge=1, description="characters of text from which on a source's documents go into another table: what a stage "
        "reads at a time, and need not do again after a kill"
    )  # fmt: skip
    files: list[FileSource] = Field(description="sources that are data: files, buckets, Hugging Face datasets")

    @field_validator("files")
    @classmethod
    def _names_are_unique(cls, value: list[FileSource]) -> list[FileSource]:
        names = [*SOURCES, *(source.name for source in value)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sources are named {', '.join(twice)}; every source needs a name of its own")
        return value


if TYPE_CHECKING:  # the built-in sources are found at run time

    class Params(_Files):
        def __getattr__(self, name: str) -> Any: ...

else:
    Params = create_model(
        "Params",
        __base__=_Files,
        **{
            name: (module.Source, Field(description=f"{module.DOMAIN}: {module.__doc__.splitlines()[0]}"))
            for name, module in SOURCES.items()
        },
    )


def run(params: Params, corpus: Corpus, out: Path, job: Job) -> Metrics:
    """Write the tables of every source with a limit above 0, and the data card, `CARD.md`."""
    from k2core.storage import write_text

    out.mkdir(parents=True, exist_ok=True)
    cards = []
    for source in SOURCES.values():
        config = getattr(params, source.NAME)
        if not config.limit:
            continue
        documents = list(source.documents(config))
        if not documents:
            raise StageError(f"ingest.{source.NAME}: the source gave no document; check its parameters")
        rows = [vars(document) for document in documents]
        with Tables(out, source.NAME, params.shard_characters) as tables:
            tables.add(rows)
        card = SourceCard(source.NAME, BUILT_IN, (source.__doc__ or "").splitlines()[0], documents[0].domain)
        for row in rows:
            card.add(row)
        cards.append(_told(card, job))
    cards += [
        _told(collect(source, out, params.shard_characters, corpus, job), job)
        for source in params.files
        if source.limit != 0
    ]
    if not cards:
        raise StageError("ingest: every source has limit 0; give at least one a higher limit")
    write_text(out / "CARD.md", render(cards))
    figures: Metrics = {}
    for card in cards:
        figures[f"documents/{card.name}"] = float(card.documents)
        figures[f"characters/{card.name}"] = float(card.characters)
        if card.kind != BUILT_IN:
            figures[f"set_aside/{card.name}"] = float(sum(card.faults.values()))
    figures["documents"] = sum(value for name, value in figures.items() if name.startswith("documents/"))
    figures["characters"] = sum(value for name, value in figures.items() if name.startswith("characters/"))
    return figures


def _told(card: SourceCard, job: Job) -> SourceCard:
    job.say(f"{card.name}: {card.documents:,} documents, {card.characters / 1e6:.1f} MB")
    if card.faults:
        job.say(f"{card.name}: {card.first_fault()}")
    return card


if __name__ == "__main__":
    main(run, SECTION)
