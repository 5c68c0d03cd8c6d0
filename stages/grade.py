"""Quality from four parts (K1.5, appendix B): rules, a trained classifier, embedding similarity, an LLM's judgement.

An LLM grades a sample of every domain, intact and damaged, from its replay cache where it has been asked before. The
classifier and the centroids of good documents learn from the rules' and the LLM's verdicts and score every document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus.documents import read_beside
from k2core.corpus.quality.combine import PARTS, agreement, auc
from k2core.corpus.quality.grading import Graded, GradingConfig, grade_domain, judge_figures, validation
from k2core.corpus.quality.judge import HIGHEST, Excerpt, JudgeConfig, excerpts, grade_of, request
from k2core.corpus.quality.rules import rules_score
from k2core.corpus.tagging import COLUMNS as ATTRIBUTES
from k2core.corpus.tagging import untagged
from k2core.corpus.throughput import paced
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import read_tables, write_table

SECTION = "grade"
_UNREAD = {"digest", "minhash"}


class Params(GradingConfig):
    """How documents are graded."""

    judge: JudgeConfig = Field(description="what the LLM judges")
    llm: dict[str, Any] = own_llm()


def run(
    params: Params, llm: LLMConfig, compute: Compute, documents: Path, attributes: Path, out: Path, job: Job
) -> Metrics:
    """Write the parts and the quality of each documents' table to a table of the same name and row order."""
    llm = llm.with_own(params.llm, "grade.llm")
    tables = {name: _rows(name, table, attributes) for name, table in read_tables(documents, ["id", "text", "domain"])}
    domains: dict[str, list[dict[str, Any]]] = {}
    for row in (row for rows in tables.values() for row in rows):
        domains.setdefault(row["domain"], []).append(row)
    if not domains:
        raise StageError(f"{documents}: its tables have no documents; run ingest again")
    judged = {
        domain: excerpts(domain, [(row["id"], row["text"]) for row in rows], params.judge, compute.seed)
        for domain, rows in sorted(domains.items())
    }
    grades = _ask(judged, llm, compute, job)
    graded: dict[str, Graded] = {}
    for domain, items in judged.items():
        with paced(job, f"classifier and embedding, {domain}", domains[domain]):
            graded[domain] = grade_domain(domains[domain], items, grades[domain], params, compute.seed, job.scratch)
    _write(out, tables, graded)
    return _figures(params, graded, judged, grades)


def _rows(name: str, table: list[dict[str, Any]], attributes: Path) -> list[dict[str, Any]]:
    tags = read_beside(attributes, name, table, [column for column in ATTRIBUTES if column not in _UNREAD], "tag")
    aside = untagged(attributes, name)  # what a signal failed on could fail here too
    return [
        {**row, "rules": rules_score(row["domain"], tag), "text": "" if row["id"] in aside else row["text"]}
        for row, tag in zip(table, tags, strict=True)
    ]


def _ask(judged: dict[str, list[Excerpt]], llm: LLMConfig, compute: Compute, job: Job) -> dict[str, list[int | None]]:
    items = [item for excerpts_ in judged.values() for item in excerpts_]
    job.say(f"{len(items)} texts of {len(judged)} domains for {llm.model} to grade, damaged ones included")
    with LLM.open(llm, compute, job.answers) as model, job.progress(len(items), "text") as bar:
        answers = model.complete_many([request(item.text, compute.seed) for item in items], bar)
    found = iter(grade_of(answer.text) for answer in answers)
    grades = {domain: [next(found) for _ in items] for domain, items in judged.items()}
    if not any(grade is not None for values in grades.values() for grade in values):
        raise StageError(
            f"none of {len(items)} answers of {llm.model} holds a grade (the first: {answers[0].text[:80]!r}); "
            "choose an llm.model that can answer by a JSON schema"
        )
    return grades


def _write(out: Path, tables: dict[str, list[dict[str, Any]]], graded: dict[str, Graded]) -> None:
    import pyarrow as pa

    schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in (*PARTS, "quality"))])
    found = {
        name: {**{part: item.parts[part][number] for part in PARTS}, "quality": item.quality[number]}
        for item in graded.values()
        for number, name in enumerate(item.ids)
    }
    for name, rows in tables.items():
        write_table(out / name, [{"id": row["id"], **found[row["id"]]} for row in rows], schema)


def _figures(
    params: Params,
    graded: dict[str, Graded],
    judged: dict[str, list[Excerpt]],
    grades: dict[str, list[int | None]],
) -> Metrics:
    items = [item for domain in judged for item in judged[domain]]
    given = [grade for domain in judged for grade in grades[domain]]
    intact = [grade for item, grade in zip(items, given, strict=True) if not item.damage]
    documents = sum(len(item.ids) for item in graded.values())
    figures: Metrics = {
        "documents": float(documents),
        "judged": float(len(intact)),
        "judged_share": len(intact) / documents,
        "llm/unreadable": float(given.count(None)),
    }
    figures |= {f"llm/grade_{grade}": float(intact.count(grade)) for grade in range(HIGHEST + 1)}
    figures |= {f"llm/{name}": value for name, value in judge_figures(items, given).items()}
    for part in ("classifier", "embedding"):
        probed = {domain: graded[domain].probes.get(part, [None] * len(judged[domain])) for domain in judged}
        told = judge_figures(items, [value for domain in judged for value in probed[domain]])
        figures |= {f"{part}/{name}": value for name, value in told.items()}
    by_llm: dict[bool, list[float]] = {True: [], False: []}
    for domain, item in graded.items():
        own, places = validation(item, params.labels)
        figures |= {f"{name}/{domain}": value for name, value in own.items()}
        for high, values in places.items():
            by_llm[high] += values
        values = [grade for grade in item.parts["llm"] if grade is not None]
        figures |= {f"llm/mean_grade/{domain}": sum(values) / len(values)} if values else {}
        figures[f"mean_rules/{domain}"] = sum(value or 0.0 for value in item.parts["rules"]) / len(item.ids)
    area, lowest, highest = auc(by_llm[True], by_llm[False])
    figures |= {"classifier/auc_llm": area, "classifier/auc_llm_low": lowest, "classifier/auc_llm_high": highest}
    everywhere = {part: [place for item in graded.values() for place in item.places[part]] for part in PARTS}
    return figures | agreement(everywhere)


if __name__ == "__main__":
    main(run, SECTION)
