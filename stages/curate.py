"""Thresholds, dedup by document and paragraph, held-out split, decontamination; what goes is kept with the reason.

Each domain has its rules over the attributes of `tag`; duplicates are sought across all sources among what the rules
keep, and the one of best quality (`grade`) stays. Sampling rates follow the quality within the domain. The held-out
part is chosen by hash of the document's id, so that it stays the same when sources grow. Training documents that hold
passages of evaluation sets or of held-out text are removed last.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from k2core.corpus import curation
from k2core.corpus.curation import (
    CONTAMINATED,
    EXACT,
    FOREIGN,
    HELDOUT,
    NEAR,
    PARAGRAPHS,
    TRAIN,
    UNTAGGED,
    DecontaminationConfig,
    Rules,
    SamplingStep,
)
from k2core.corpus.documents import COLUMNS, DOMAINS, Domain, document_schema, read_beside
from k2core.corpus.duplicates.paragraphs import ParagraphConfig
from k2core.corpus.tagging import COLUMNS as ATTRIBUTES
from k2core.corpus.tagging import untagged
from k2core.corpus.throughput import paced
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import read_tables, write_json, write_table

SECTION = "curate"


class Params(Section):
    """What is kept."""

    rules: dict[Domain, Rules] = Field(description="rules of each domain; a domain without any loses nothing by rule")
    min_similarity: float = Field(
        ge=0, le=1, description="share of equal MinHash values from which a document is a near duplicate"
    )
    paragraphs: ParagraphConfig = Field(description="paragraphs that occur in several documents")
    heldout_fraction: float = Field(gt=0, lt=1, description="share of texts that no training ever sees")
    sampling: list[SamplingStep] = Field(min_length=1, description="sampling rates by quality; one has min_quantile 0")
    translate_from: list[str] = Field(
        description="ISO 639 codes that are kept beside each rule's languages as split `foreign`, to be translated"
    )
    decontamination: DecontaminationConfig = Field(description="passages that no training document may hold")

    @field_validator("sampling")
    @classmethod
    def _for_all(cls, steps: list[SamplingStep]) -> list[SamplingStep]:
        if min(step.min_quantile for step in steps) > 0:
            raise ValueError("no rate for the poorest documents; one step must have min_quantile 0")
        return steps


def run(params: Params, documents: Path, attributes: Path, quality: Path, tasks: Path, out: Path, job: Job) -> Metrics:
    """Write kept and rejected documents and the funnel."""
    from k2core.evals.text_sets import text_sets

    rows = _read(documents, attributes, quality)
    rejections: dict[str, curation.Rejection] = {}
    with paced(job, "rules", rows):
        for row in rows:
            if row["untagged"]:
                rejections[row["id"]] = curation.Rejection(UNTAGGED, 0.0, passage=row["untagged"])
                continue
            rules = params.rules.get(row["domain"])
            if rules and (rejection := curation.judge(rules, row["tags"], params.translate_from)):
                rejections[row["id"]] = rejection
    kept = [row for row in rows if row["id"] not in rejections]
    job.say(f"{len(rows):,} documents, {len(kept):,} pass the rules; looking for duplicates")
    with paced(job, "duplicates", kept):
        rejections |= curation.deduplicate(kept, params.min_similarity)
    kept = [row for row in kept if row["id"] not in rejections]
    with paced(job, "paragraphs", kept):
        repeats = curation.repeated_paragraphs(kept, params.paragraphs)
    rejections |= {name: curation.rejection_of(found) for name, found in repeats.items() if found.goes}
    texts = {name: found.text for name, found in repeats.items() if not found.goes}
    kept = [
        {**row, "text": texts.get(row["id"], row["text"]), "split": _split(row, params)}
        for row in kept
        if row["id"] not in rejections
    ]
    sets = text_sets(tasks)
    job.say(f"{len(kept):,} documents left; looking for {', '.join(group.name for group in sets)} and held-out text")
    with paced(job, "decontamination", kept):
        contaminated, searched = curation.decontaminate(kept, sets, params.decontamination)
    rejections |= contaminated
    kept = [row for row in kept if row["id"] not in contaminated]
    _check(kept, documents)
    _sample(kept, params.sampling)

    rejected = [{**row, **vars(rejections[row["id"]])} for row in rows if row["id"] in rejections]
    _write(out, kept, rejected)
    cut = {row["id"]: len(row["text"]) - len(texts[row["id"]]) for row in rows if row["id"] in texts}
    write_json(out / "funnel.json", curation.funnel(rows, rejections, _steps(params, rejections), cut))
    return _figures(rows, kept, rejected) | searched | {"paragraphs_cut_from": float(len(cut))}


def _read(documents: Path, attributes: Path, quality: Path) -> list[dict[str, Any]]:
    """All documents with their `tags` and `quality`, and beside them what deduplication compares."""
    rows = []
    for name, table in read_tables(documents, COLUMNS):
        tags = read_beside(attributes, name, table, ATTRIBUTES, "tag")
        aside = untagged(attributes, name)
        scores = read_beside(quality, name, table, ["id", "quality"], "grade")
        rows += [
            {
                **row, "tags": tag, "quality": score["quality"], "digest": tag["digest"], "minhash": tag["minhash"],
                "untagged": aside.get(row["id"], ""),
            }
            for row, tag, score in zip(table, tags, scores, strict=True)
        ]  # fmt: skip
    if not rows:
        raise StageError(f"{documents}: its tables have no documents; run ingest again")
    return rows


def _split(row: dict[str, Any], params: Params) -> str:
    if curation.is_foreign(params.rules.get(row["domain"]), row["tags"]["language"], params.translate_from):
        return FOREIGN
    return curation.split_of(row["id"], params.heldout_fraction)


def _sample(kept: list[dict[str, Any]], steps: list[SamplingStep]) -> None:
    """Add `rate`: by quality within the domain for what is trained on, 1 for the rest."""
    for domain in DOMAINS:
        training = [row for row in kept if row["domain"] == domain and row["split"] == TRAIN]
        for row, rate in zip(training, curation.rates([row["quality"] for row in training], steps), strict=True):
            row["rate"] = rate
    for row in kept:
        row.setdefault("rate", 1.0)


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

    chosen = ("quality", pa.float64()), ("rate", pa.float64()), ("split", pa.string())
    write_table(out / "documents.parquet", kept, document_schema(*chosen))
    why = ("reason", pa.string()), ("score", pa.float64()), ("matched", pa.string()), ("passage", pa.string())
    write_table(out / "rejected.parquet", rejected, document_schema(*why))


def _steps(params: Params, rejections: dict[str, curation.Rejection]) -> list[str]:
    rules = [name for domain in DOMAINS if domain in params.rules for name in params.rules[domain].attributes]
    first = [UNTAGGED] if any(rejection.reason == UNTAGGED for rejection in rejections.values()) else []
    return [*first, "language", *dict.fromkeys(rules), EXACT, NEAR, PARAGRAPHS, CONTAMINATED]


def _figures(rows: list[Any], kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> Metrics:
    figures: Metrics = {
        "documents": float(len(rows)),
        "kept": float(len(kept)),
        "kept_share": len(kept) / len(rows),
        "heldout": float(sum(row["split"] == HELDOUT for row in kept)),
        "foreign": float(sum(row["split"] == FOREIGN for row in kept)),
        "characters": float(sum(len(row["text"]) for row in kept)),
    }
    for domain in DOMAINS:
        chosen = [row for row in kept if row["domain"] == domain]
        figures[f"kept/{domain}"] = float(len(chosen))
        figures[f"characters/{domain}"] = float(sum(len(row["text"]) for row in chosen))
        if chosen:
            figures[f"mean_quality/{domain}"] = sum(row["quality"] for row in chosen) / len(chosen)
            figures[f"mean_rate/{domain}"] = sum(row["rate"] for row in chosen) / len(chosen)
    reasons = Counter({reason: 0 for reason in (EXACT, NEAR, PARAGRAPHS, CONTAMINATED)})
    reasons.update(row["reason"] for row in rejected)
    figures |= {f"rejected/{reason}": float(count) for reason, count in sorted(reasons.items())}
    return figures


if __name__ == "__main__":
    main(run, SECTION)
