"""Sources of the four domains become documents, licence and origin kept (K2 §2.2).

Knowledge: Wikipedia summaries. Code: Python source. Web: package documentation. Mathematics: procedural problems.
What each source gives depends on the installed packages, which `requirements.txt` fixes, and on the Python release.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.corpus.sources import mathematics, package_docs, python_source, wikipedia
from k2core.corpus.sources.mathematics import MathematicsSource
from k2core.corpus.sources.package_docs import PackageDocsSource
from k2core.corpus.sources.python_source import PythonSource
from k2core.corpus.sources.wikipedia import WikipediaSource
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

SECTION = "ingest"
SOURCES = (wikipedia, python_source, package_docs, mathematics)


class Params(Section):
    """One entry a source."""

    wikipedia: WikipediaSource = Field(description="knowledge: Wikipedia summaries")
    python: PythonSource = Field(description="code: standard library and packages")
    package_docs: PackageDocsSource = Field(description="web: package documentation")
    mathematics: MathematicsSource = Field(description="mathematics: procedural problems")


def run(params: Params, out: Path, job: Job) -> Metrics:
    """Write `<source>.parquet` for every source with a limit above 0."""
    from k2core.corpus.documents import document_schema
    from k2core.storage import write_table

    figures: Metrics = {}
    for source in SOURCES:
        config = getattr(params, source.NAME)
        if not config.limit:
            continue
        documents = list(source.documents(config))
        if not documents:
            raise StageError(f"ingest.{source.NAME}: the source gave no document; check its parameters")
        write_table(out / f"{source.NAME}.parquet", [vars(document) for document in documents], document_schema())
        figures[f"documents/{source.NAME}"] = float(len(documents))
        figures[f"characters/{source.NAME}"] = float(sum(len(document.text) for document in documents))
        job.say(f"{source.NAME}: {len(documents):,} documents, {figures[f'characters/{source.NAME}'] / 1e6:.1f} MB")
    if not figures:
        raise StageError("ingest: every source has limit 0; give at least one a higher limit")
    figures["documents"] = sum(value for name, value in figures.items() if name.startswith("documents/"))
    figures["characters"] = sum(value for name, value in figures.items() if name.startswith("characters/"))
    return figures


if __name__ == "__main__":
    main(run, SECTION)
