"""Quality, language, repetition, personal data and duplicate signatures as attributes beside the documents.

Every signal is computed once for each document; what to keep is decided in `curate`, whose thresholds can change
without a second pass over the text.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.tagging import SET_ASIDE, attribute_schema, tag_or_reason
from k2core.corpus.throughput import Pace
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import read_tables, write_lines, write_table

SECTION = "tag"


class Params(Section):
    """How attributes are computed."""

    language_characters: int = Field(ge=20, description="characters of a text that language identification reads")
    minhash: MinhashConfig = Field(description="fingerprints of near duplicates")


def run(params: Params, documents: Path, out: Path, job: Job) -> Metrics:
    """Write the attributes of each documents' table to a table of the same name and row order.

    A document that a signal fails on is set aside: `curate` rejects it, and says why.
    """
    figures: Metrics = {}
    paces: dict[str, Pace] = {}
    tables = dict(read_tables(documents, ["id", "text", "domain"]))
    total = sum(len(row["text"]) for rows in tables.values() for row in rows)
    job.say(f"{sum(map(len, tables.values())):,} documents, {total / 1e6:.1f} MB of text")
    with job.progress(total, "B", what="tagging") as bar:
        for name, rows in tables.items():
            if not rows:
                raise StageError(f"{documents / name}: no documents; run ingest again")
            tagged, aside = [], []
            for row in rows:
                attributes, reason = tag_or_reason(row, params.language_characters, params.minhash, paces)
                tagged.append(attributes)
                aside += [{"id": row["id"], "reason": reason}] if reason else []
                bar.update(len(row["text"]))
            write_table(out / name, tagged, attribute_schema())
            source = Path(name).stem
            if aside:
                write_lines(out / f"{source}{SET_ASIDE}", aside)
                figures[f"set_aside/{source}"] = float(len(aside))
                job.say(f"{source}: {len(aside)} documents set aside, the first {aside[0]['id']}: {aside[0]['reason']}")
            english = sum(row["language"] == "en" for row in tagged)
            figures[f"documents/{source}"] = float(len(tagged))
            figures[f"english_share/{source}"] = english / len(tagged)
            figures[f"mean_words/{source}"] = sum(row["words"] for row in tagged) / len(tagged)
            figures[f"pii_share/{source}"] = sum(row["pii"] > 0 for row in tagged) / len(tagged)
            if checked := sum(row["equations"] or 0 for row in tagged):
                wrong = sum(row["wrong_equations"] or 0 for row in tagged)
                figures[f"right_equation_share/{source}"] = 1 - wrong / checked
    for family, pace in paces.items():
        job.say(f"{family}: {pace}")
    return figures


if __name__ == "__main__":
    main(run, SECTION)
