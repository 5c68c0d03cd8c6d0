"""Knowledge and mathematics rephrased by an LLM behind a fidelity gate (K2 §2.2).

A sample of the curated training documents is rewritten in the styles of `k2core/corpus/styles.yaml`, long ones chunk
by chunk. Every rewrite is judged against its source; the verdicts are kept with their scores, the accepted rewrites
become documents. A killed run continues from its replay cache.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.fidelity import SCORES, GateLimits, Verdict, judge
from k2core.corpus.rephrasing import Rewrite, expected_tokens, load_styles, plan, rewrite_all
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig
from k2core.recipe import Compute, Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import read_table, write_table

SECTION = "rephrase"


class Params(Section):
    """How much is rewritten, how, and what is accepted."""

    rewrites: dict[str, int] = Field(min_length=2, description="documents to rewrite, by style of styles.yaml")
    min_characters: int = Field(ge=1, description="shorter documents are not rewritten")
    max_characters: int = Field(ge=1, description="longer documents are not rewritten")
    chunk_tokens: int = Field(ge=16, description="longer texts are rewritten in pieces of about this size (K2: 256)")
    context_tokens: int = Field(ge=0, description="tokens of earlier pieces and their rewrites that a piece sees")
    temperature: float = Field(ge=0, le=2, description="sampling temperature of the rewrites")
    gate: dict[str, GateLimits] = Field(description="limits of the fidelity gate, by domain")


def run(params: Params, llm: LLMConfig, compute: Compute, curated: Path, out: Path, job: Job) -> Metrics:
    """Write the accepted rewrites as documents, and every verdict."""
    compute.apply()
    table = read_table(curated / "documents.parquet", [*COLUMNS, "split"])
    train = [row for row in table if row["split"] == "train"]
    fitting = [row for row in train if params.min_characters <= len(row["text"]) <= params.max_characters]
    jobs = plan(fitting, params.rewrites, compute.seed, params.chunk_tokens)
    tokens, chunks = expected_tokens(jobs), sum(len(item.chunks) for item in jobs)
    job.say(
        f"{len(jobs)} rewrites of {len({item.source_id for item in jobs})} documents in {len(params.rewrites)} styles, "
        f"{chunks} requests, about {tokens:,} tokens: {tokens / llm.expected_tokens_per_second:.0f} s "
        f"at {llm.expected_tokens_per_second:g} tokens/s"
    )
    with LLM.open(llm, compute, job.scratch / "answers.sqlite") as model, job.progress(chunks, "chunk") as bar:
        rewrites = rewrite_all(
            model, jobs, temperature=params.temperature, seed=compute.seed,
            context_tokens=params.context_tokens, bar=bar,
        )  # fmt: skip
    verdicts = _judged(rewrites, train, params.gate, job)
    sources = {row["id"]: row for row in train}
    accepted = [_document(item, sources[item.job.source_id]) for item, verdict in verdicts if verdict.accepted]
    if not accepted:
        _write_verdicts(job.scratch / "verdicts.parquet", verdicts)
        counts = Counter(verdict.reason for _, verdict in verdicts).most_common(3)
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts)
        raise StageError(
            f"none of {len(verdicts)} rewrites passed the gate ({reasons}, see {job.scratch / 'verdicts.parquet'}); "
            "rewrite more, loosen rephrase.gate or take a better llm.model"
        )
    write_table(out / "documents.parquet", accepted, document_schema())
    _write_verdicts(out / "verdicts.parquet", verdicts)
    return _figures(verdicts)


def _judged(
    rewrites: list[Rewrite], train: list[dict[str, Any]], gate: dict[str, GateLimits], job: Job
) -> list[tuple[Rewrite, Verdict]]:
    from k2core.corpus.facts import common_words

    styles = load_styles()
    domains = {styles[item.job.style].domain for item in rewrites}
    if missing := sorted(domains - gate.keys()):
        raise StageError(f"rephrase.gate: no limits for the domain {missing[0]}, which rephrase.rewrites asks for")
    common = common_words(row["text"] for row in train if row["domain"] in domains)
    verdicts = []
    with job.progress(len(rewrites), "rewrite", what="judging") as bar:
        for item in rewrites:
            verdict = judge(item.job.text, item.text, gate[styles[item.job.style].domain], common)
            if item.truncated:
                verdict = Verdict(False, "truncated", verdict.scores)
            verdicts.append((item, verdict))
            bar.update()
    return verdicts


def _document(item: Rewrite, source: dict[str, Any]) -> dict[str, Any]:
    style = item.job.style
    return {
        **{name: source[name] for name in COLUMNS},
        "id": f"rephrase/{style}/{source['id']}",
        "text": item.text,
        "source": f"rephrase/{style}",
        "origin": source["id"],
        "attribution": f"{source['attribution']}; rephrased by a language model",
    }


def _write_verdicts(path: Path, verdicts: list[tuple[Rewrite, Verdict]]) -> None:
    import pyarrow as pa

    texts = ("source_id", "style", "source_text", "rewrite", "reason")
    schema = pa.schema(
        [*((name, pa.string()) for name in texts), ("accepted", pa.bool_()), *((name, pa.float64()) for name in SCORES)]
    )
    rows = [
        {
            "source_id": item.job.source_id,
            "style": item.job.style,
            "source_text": item.job.text,
            "rewrite": item.text,
            "reason": verdict.reason,
            "accepted": verdict.accepted,
            **verdict.scores,
        }
        for item, verdict in verdicts
    ]
    write_table(path, rows, schema)


def _figures(verdicts: list[tuple[Rewrite, Verdict]]) -> Metrics:
    accepted = [(item, verdict) for item, verdict in verdicts if verdict.accepted]
    figures: Metrics = {
        "rewrites": float(len(verdicts)),
        "accepted": float(len(accepted)),
        "accepted_share": len(accepted) / len(verdicts),
        "accepted_characters": float(sum(len(item.text) for item, _ in accepted)),
        "generated_tokens": float(sum(item.tokens for item, _ in verdicts)),
        "mean_similarity": sum(verdict.scores["similarity"] for _, verdict in verdicts) / len(verdicts),
        "mean_copied_of_accepted": sum(verdict.scores["copied"] for _, verdict in accepted) / len(accepted),
    }
    for style in sorted({item.job.style for item, _ in verdicts}):
        of_style = [verdict.accepted for item, verdict in verdicts if item.job.style == style]
        figures[f"accepted_share/{style}"] = sum(of_style) / len(of_style)
    for reason, count in sorted(Counter(verdict.reason for _, verdict in verdicts if not verdict.accepted).items()):
        figures[f"rejected/{reason}"] = float(count)
    return figures


if __name__ == "__main__":
    main(run, SECTION)
