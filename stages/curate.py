"""Thresholds, dedup by document and paragraph, held-out split, decontamination; what goes is kept with the reason.

Each domain has its rules over the attributes of `tag`; duplicates are sought across all sources among what the rules
keep. The held-out part is chosen by hash of the document's id, so that it stays what it is when sources grow. Training
documents that hold passages of evaluation sets or of held-out text go last.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus import curation
from k2core.corpus.curation import CONTAMINATED, EXACT, HELDOUT, NEAR, PARAGRAPHS, TRAIN, DecontaminationConfig, Rules
from k2core.corpus.documents import COLUMNS, DOMAINS, Domain, document_schema
from k2core.corpus.paragraphs import ParagraphConfig
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
    paragraphs: ParagraphConfig = Field(description="paragraphs that stand in several documents")
    heldout_fraction: float = Field(gt=0, lt=1, description="share of texts that no training ever sees")
    decontamination: DecontaminationConfig = Field(description="passages that no training document may hold")


def run(params: Params, documents: Path, attributes: Path, tasks: Path, out: Path, job: Job) -> Metrics:
    """Write kept and rejected documents and the funnel."""
    from k2core.evals.text_sets import text_sets

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
    repeats = curation.repeated_paragraphs([row for row in rows if row["id"] not in rejections], params.paragraphs)
    rejections |= {name: curation.rejection_of(found) for name, found in repeats.items() if found.goes}
    texts = {name: found.text for name, found in repeats.items() if not found.goes}
    kept = [
        {
            **row,
            "text": texts.get(row["id"], row["text"]),
            "split": curation.split_of(row["id"], params.heldout_fraction),
        }
        for row in rows
        if row["id"] not in rejections
    ]
    sets = text_sets(tasks)
    job.say(f"{len(kept):,} documents left; looking for {', '.join(group.name for group in sets)} and held-out text")
    contaminated, searched = curation.decontaminate(kept, sets, params.decontamination)
    rejections |= contaminated
    kept = [row for row in kept if row["id"] not in contaminated]
    _check(kept, documents)

    rejected = [{**row, **vars(rejections[row["id"]])} for row in rows if row["id"] in rejections]
    _write(out, kept, rejected)
    cut = {row["id"]: len(row["text"]) - len(texts[row["id"]]) for row in rows if row["id"] in texts}
    write_json(out / "funnel.json", curation.funnel(rows, rejections, _steps(params), cut))
    return _figures(rows, kept, rejected) | searched | {"paragraphs_cut_from": float(len(cut))}


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
    extra = ("reason", pa.string()), ("score", pa.float64()), ("matched", pa.string()), ("passage", pa.string())
    write_table(out / "rejected.parquet", rejected, document_schema(*extra))


def _steps(params: Params) -> list[str]:
    rules = [name for domain in DOMAINS if domain in params.rules for name in params.rules[domain].attributes]
    return ["language", *dict.fromkeys(rules), EXACT, NEAR, PARAGRAPHS, CONTAMINATED]


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
    reasons = Counter({reason: 0 for reason in (EXACT, NEAR, PARAGRAPHS, CONTAMINATED)})
    reasons.update(row["reason"] for row in rejected)
    figures |= {f"rejected/{reason}": float(count) for reason, count in sorted(reasons.items())}
    return figures


if __name__ == "__main__":
    main(run, SECTION)
