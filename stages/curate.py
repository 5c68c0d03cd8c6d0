"""Thresholds, exact and MinHash dedup, held-out split; what is rejected is kept with the reason.

Each domain has its rules over the attributes of `tag`; duplicates are sought across all sources among what the rules
keep. The held-out part is chosen by hash of the document's id, so that it stays what it is when sources grow.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus import curation
from k2core.corpus.curation import EXACT, HELDOUT, NEAR, TRAIN, Rules
from k2core.corpus.documents import COLUMNS, DOMAINS, Domain, document_schema
from k2core.corpus.tagging import COLUMNS as ATTRIBUTES
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import read_table, read_tables, write_json, write_table

SECTION = "curate"


class Params(Section):
    """What is kept."""

    rules: dict[Domain, Rules] = Field(description="rules of each domain; a domain without any loses nothing by rule")
    min_similarity: float = Field(
        ge=0, le=1, description="share of equal MinHash values from which a document is a near duplicate"
    )
    heldout_fraction: float = Field(gt=0, lt=1, description="share of texts that no training ever sees")


def run(params: Params, documents: Path, attributes: Path, out: Path, job: Job) -> Metrics:
    """Write kept and rejected documents and the funnel."""
    rows, rejections, kept = [], {}, []
    for name, table in read_tables(documents, COLUMNS):
        for row, tags in _joined(table, read_table(attributes / name, list(ATTRIBUTES)), name, attributes):
            rows.append(row)
            rules = params.rules.get(row["domain"])
            if rules and (rejection := curation.judge(rules, tags)):
                rejections[row["id"]] = rejection
            else:
                row["quality"] = curation.quality(row["domain"], tags)
                kept.append({**row, "digest": tags["digest"], "minhash": tags["minhash"]})
    job.say(f"{len(rows):,} documents, {len(kept):,} pass the rules; looking for duplicates")
    rejections |= curation.deduplicate(kept, params.min_similarity)
    kept = [row for row in rows if row["id"] not in rejections]
    for row in kept:
        row["split"] = curation.split_of(row["id"], params.heldout_fraction)
    _check(kept, documents)

    rejected = [
        {**row, "reason": rejections[row["id"]].reason, "score": rejections[row["id"]].score}
        for row in rows
        if row["id"] in rejections
    ]
    _write(out, kept, rejected)
    write_json(out / "funnel.json", curation.funnel(rows, rejections, _steps(params)))
    return _figures(rows, kept, rejected)


def _joined(table: list[dict[str, Any]], tags: list[dict[str, Any]], name: str, attributes: Path) -> list[Any]:
    if [row["id"] for row in table] != [row["id"] for row in tags]:
        raise StageError(f"{attributes / name}: its rows are not those of the documents of that name; run tag again")
    return list(zip(table, tags, strict=True))


def _check(kept: list[dict[str, Any]], documents: Path) -> None:
    splits = Counter(row["split"] for row in kept)
    for split in (TRAIN, HELDOUT):
        if not splits[split]:
            raise StageError(
                f"{documents}: no document is left for the split {split}; loosen curate.rules, "
                "change curate.heldout_fraction or ingest more"
            )


def _write(out: Path, kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    extra = ("quality", pa.float64()), ("split", pa.string())
    write_table(out / "documents.parquet", kept, document_schema(*extra))
    extra = ("reason", pa.string()), ("score", pa.float64())
    write_table(out / "rejected.parquet", rejected, document_schema(*extra))


def _steps(params: Params) -> list[str]:
    rules = [name for domain in DOMAINS if domain in params.rules for name in params.rules[domain].attributes]
    return ["language", *dict.fromkeys(rules), EXACT, NEAR]


def _figures(rows: list[Any], kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> Metrics:
    figures: Metrics = {
        "documents": float(len(rows)),
        "kept": float(len(kept)),
        "kept_share": len(kept) / len(rows),
        "heldout": float(sum(row["split"] == HELDOUT for row in kept)),
        "characters": float(sum(len(row["text"]) for row in kept)),
    }
    for domain in DOMAINS:
        chosen = [row for row in kept if row["domain"] == domain]
        figures[f"kept/{domain}"] = float(len(chosen))
        figures[f"characters/{domain}"] = float(sum(len(row["text"]) for row in chosen))
        if chosen:
            figures[f"mean_quality/{domain}"] = sum(row["quality"] for row in chosen) / len(chosen)
    for reason, count in sorted(Counter(row["reason"] for row in rejected).items()):
        figures[f"rejected/{reason}"] = float(count)
    return figures


if __name__ == "__main__":
    main(run, SECTION)
