"""Knowledge and mathematics rephrased by an LLM behind a fidelity gate (K2 §2.2).

A sample of the curated training documents is rewritten in the styles and perspectives of the folder `styles/`, long
ones chunk by chunk; documents in other languages are translated. Every rewrite is judged against its source; the
verdicts are kept with their scores, the accepted rewrites become documents. A killed run continues from its replay
cache.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import read_table, write_table
from k2core.synthesis.fidelity.gate import LONGEST, SCORES, GateLimits, Verdict, judge
from k2core.synthesis.rephrasing.forecast import forecast
from k2core.synthesis.rephrasing.rewriting import Rewrite, Share, expected_tokens, plan, rewrite_all
from k2core.synthesis.rephrasing.styles import Library, load_styles

SECTION = "rephrase"
Judged = list[tuple[Rewrite, Verdict]]


class Params(Section):
    """How much is rewritten, how, and what is accepted."""

    rewrites: dict[str, Share] = Field(description="what is rewritten, by style of the folder styles/")
    min_characters: int = Field(ge=1, description="shorter documents are not rewritten")
    max_characters: int = Field(ge=1, le=LONGEST, description="longer documents are not rewritten")
    chunk_tokens: int = Field(ge=16, description="longer texts are rewritten in pieces of about this size (K2: 256)")
    context_tokens: int = Field(ge=0, description="tokens of earlier pieces and their rewrites that a piece sees")
    temperature: float = Field(ge=0, le=2, description="sampling temperature of the rewrites")
    gate: dict[str, GateLimits] = Field(description="limits of the fidelity gate, by the name that a style gives")
    llm: dict[str, Any] = own_llm()


def run(params: Params, llm: LLMConfig, compute: Compute, curated: Path, styles: Path, out: Path, job: Job) -> Metrics:
    """Write the accepted rewrites as documents, and every verdict."""
    llm = llm.with_own(params.llm, "rephrase.llm")
    compute.apply()
    library = load_styles(styles)
    if all(share.documents == 0 for share in params.rewrites.values()):
        job.say("skipped: rephrase.rewrites asks for no document; the tables are empty")
        return _write(out, [], [], library)
    table = read_table(curated / "documents.parquet", [*COLUMNS, "split"])
    fitting = [row for row in table if params.min_characters <= len(row["text"]) <= params.max_characters]
    jobs = plan(fitting, library, params.rewrites, compute.seed, params.chunk_tokens)
    _check_gate(params, library)
    chunks = sum(len(item.chunks) for item in jobs)
    cost = forecast(chunks, *expected_tokens(jobs, library, params.context_tokens), llm)
    sources = {item.source_id for item in jobs}
    styles_used = {item.style for item in jobs}
    job.say(f"{len(jobs)} rewrites of {len(sources)} documents in {len(styles_used)} styles: {cost.sentence()}")
    with LLM.open(llm, compute, job.answers) as model, job.progress(chunks, "chunk") as bar:
        rewrites = rewrite_all(
            model, jobs, library, temperature=params.temperature, seed=compute.seed,
            context_tokens=params.context_tokens, bar=bar,
        )  # fmt: skip
    verdicts = _judged(rewrites, table, library, params.gate, job)
    rows = {row["id"]: row for row in table if row["id"] in sources}
    accepted = [_document(item, rows[item.job.source_id], library) for item, verdict in verdicts if verdict.accepted]
    if not accepted:
        _write_verdicts(job.scratch / "verdicts.parquet", verdicts, library)
        reasons = ", ".join(f"{reason} {count}" for reason, count in _reasons(verdicts).most_common(3))
        raise StageError(
            f"none of {len(verdicts)} rewrites passed the gate ({reasons}, see {job.scratch / 'verdicts.parquet'}); "
            "rewrite more, loosen rephrase.gate or choose a better llm.model"
        )
    return _write(out, accepted, verdicts, library)


def _write(out: Path, accepted: list[dict[str, Any]], verdicts: Judged, library: Library) -> Metrics:
    write_table(out / "documents.parquet", accepted, document_schema())
    _write_verdicts(out / "verdicts.parquet", verdicts, library)
    return _figures(verdicts)


def _check_gate(params: Params, library: Library) -> None:
    for name in params.rewrites:
        if (gate := library.style(name).gate) not in params.gate:
            raise StageError(f"rephrase.gate: no limits {gate!r}, which the style {name} of rephrase.rewrites names")


def _judged(
    rewrites: list[Rewrite], table: list[dict[str, Any]], library: Library, gate: dict[str, GateLimits], job: Job
) -> Judged:
    from k2core.synthesis.fidelity.facts import common_words

    domains = {library.style(item.job.style).domain for item in rewrites}
    common = {
        split: common_words(row["text"] for row in table if row["domain"] in domains and row["split"] in splits)
        for split, splits in {"train": ("train",), "foreign": ("train", "foreign")}.items()
    }
    verdicts: Judged = []
    passed: set[tuple[str, str]] = set()
    with job.progress(len(rewrites), "rewrite", what="judging") as bar:
        for item in rewrites:
            style = library.style(item.job.style)
            text = style.bare(item.text)
            verdict = judge(item.job.text, text, gate[style.gate], common[style.split], language=style.language)
            if item.refused:
                verdict = Verdict(False, f"refused: {item.refused}", verdict.scores)
            elif item.truncated:
                verdict = Verdict(False, "truncated", verdict.scores)
            elif verdict.accepted and (item.job.source_id, item.text) in passed:
                verdict = Verdict(False, "duplicate", verdict.scores)
            if verdict.accepted:
                passed.add((item.job.source_id, item.text))
            verdicts.append((item, verdict))
            bar.update()
    return verdicts


def _document(item: Rewrite, source: dict[str, Any], library: Library) -> dict[str, Any]:
    name, language = item.job.style, library.style(item.job.style).language
    return {
        **{column: source[column] for column in COLUMNS},
        "id": f"rephrase/{name}/{item.job.number}/{source['id']}",
        "text": item.text,
        "source": f"rephrase/{name}",
        "origin": source["id"],
        "attribution": f"{source['attribution']}; {'translated' if language else 'rephrased'} by a language model",
        "language": language or source["language"],
    }


def _write_verdicts(path: Path, verdicts: Judged, library: Library) -> None:
    import pyarrow as pa

    texts = ("source_id", "style", "perspective", "gate", "source_text", "rewrite", "reason")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("number", pa.int64()),
            ("accepted", pa.bool_()),
            *((name, pa.float64()) for name in SCORES),
        ]
    )
    rows = [
        {
            "source_id": item.job.source_id,
            "style": item.job.style,
            "perspective": item.job.perspective,
            "gate": library.style(item.job.style).gate,
            "number": item.job.number,
            "source_text": item.job.text,
            "rewrite": item.text,
            "reason": verdict.reason,
            "accepted": verdict.accepted,
            **verdict.scores,
        }
        for item, verdict in verdicts
    ]
    write_table(path, rows, schema)


def _reasons(verdicts: Judged) -> Counter[str]:
    """How many rewrites were set aside for each reason; a refusal's own words are in the verdicts."""
    return Counter(verdict.reason.partition(":")[0] for _, verdict in verdicts if not verdict.accepted)


def _figures(verdicts: Judged) -> Metrics:
    accepted = [(item, verdict) for item, verdict in verdicts if verdict.accepted]
    answered = [verdict for item, verdict in verdicts if not item.refused]
    figures: Metrics = {
        "rewrites": float(len(verdicts)),
        "accepted": float(len(accepted)),
        "accepted_characters": float(sum(len(item.text) for item, _ in accepted)),
        "generated_tokens": float(sum(item.tokens for item, _ in verdicts)),
    }
    if accepted:
        figures |= {
            "accepted_share": len(accepted) / len(verdicts),
            "mean_similarity": sum(verdict.scores["similarity"] for verdict in answered) / len(answered),
            "mean_copied_of_accepted": sum(verdict.scores["copied"] for _, verdict in accepted) / len(accepted),
        }
    for style in sorted({item.job.style for item, _ in verdicts}):
        of_style = [verdict.accepted for item, verdict in verdicts if item.job.style == style]
        figures[f"accepted_share/{style}"] = sum(of_style) / len(of_style)
    for reason, count in sorted(_reasons(verdicts).items()):
        figures[f"rejected/{reason}"] = float(count)
    return figures


if __name__ == "__main__":
    main(run, SECTION)
