"""Quality, language, repetition, personal data and duplicate signatures as attributes beside the documents.

Every signal is computed once for each document; what to keep is decided in `curate`, whose thresholds can change
without a second pass over the text.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path

from pydantic import Field

from k2core.corpus.documents import source_of
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.steps.tags import Tagging
from k2core.corpus.tagging import untagged
from k2core.corpus.throughput import Pace
from k2core.corpus.workers import Corpus, map_shards
from k2core.recipe import Section
from k2core.stage import Job, Metrics, main
from k2core.storage import count_rows, read_columns, table_names
from k2core.storage.atomic import link_files

SECTION = "tag"


class Params(Section):
    """How attributes are computed."""

    language_characters: int = Field(ge=20, description="characters of a text that language identification reads")
    minhash: MinhashConfig = Field(description="fingerprints of near duplicates")


def run(params: Params, corpus: Corpus, documents: Path, out: Path, job: Job) -> Metrics:
    """Write the attributes of each documents' table to a table of the same name and row order.

    A document that a signal fails on, or that kills its process twice, is set aside: `curate` rejects it, and says why.
    A finished table is in `job.scratch` and is not tagged again.
    """
    names = table_names(documents)
    work = Tagging(documents, job.scratch / "tagged", params.language_characters, params.minhash)
    counts = {name: count_rows(documents / name) for name in names}
    left = [name for name in names if not (work.tagged / name).exists()]
    paces: dict[str, Pace] = {}
    done = sum(counts[name] for name in names if name not in left)
    with job.progress(sum(counts.values()), "document", done, "tagging") as bar:
        for name, of_table in map_shards(work, left, corpus, job.scratch / "workers"):
            bar.update(counts[name])
            for family, pace in of_table.items():
                paces.setdefault(family, Pace()).add(pace.documents, pace.characters, pace.seconds)
    for family, pace in paces.items():
        job.say(f"{family}: {pace}")
    for name in names:
        link_files(work.tagged / name, out)
    return _figures(names, out, job)


def _figures(names: list[str], out: Path, job: Job) -> Metrics:
    """Shares and means of each source, over its tables."""
    import pyarrow.compute as pc

    figures: Metrics = {}
    for source, tables in groupby(sorted(names, key=source_of), source_of):
        sums: Counter[str] = Counter()
        aside: dict[str, str] = {}
        for name in tables:
            table = read_columns(out / name, ["language", "words", "pii", "equations", "wrong_equations"])
            sums["documents"] += table.num_rows
            sums["english"] += pc.sum(pc.equal(table["language"], "en")).as_py() or 0
            sums["leaking"] += pc.sum(pc.greater(table["pii"], 0)).as_py() or 0
            sums.update(
                {column: pc.sum(table[column]).as_py() or 0 for column in ("words", "equations", "wrong_equations")}
            )
            aside |= untagged(out, name)
        if aside:
            figures[f"set_aside/{source}"] = float(len(aside))
            first, reason = next(iter(aside.items()))
            job.say(f"{source}: {len(aside)} documents set aside, the first {first}: {reason}")
        count = sums["documents"]
        figures[f"documents/{source}"] = float(count)
        figures[f"english_share/{source}"] = sums["english"] / count
        figures[f"mean_words/{source}"] = sums["words"] / count
        figures[f"pii_share/{source}"] = sums["leaking"] / count
        if sums["equations"]:
            figures[f"right_equation_share/{source}"] = 1 - sums["wrong_equations"] / sums["equations"]
    return figures


if __name__ == "__main__":
    main(run, SECTION)
