"""Quality from four parts (K1.5, appendix B): rules, a trained classifier, embedding similarity, an LLM's judgement.

An LLM grades a sample of every domain, intact and damaged, from its replay cache where it has been asked before. The
classifier and the centroids of good documents learn from the rules' and the LLM's verdicts and score every document.

Shapes: N documents of a domain in one shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.corpus.quality.combine import PARTS, agreement, auc
from k2core.corpus.quality.judge import HIGHEST, Candidate, Excerpt, JudgeConfig, drawn, excerpts, grade_of, request
from k2core.corpus.quality.settings import GradingConfig
from k2core.corpus.workers import Corpus, Watch, map_shards
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import count_rows, parse_json, read_columns, table_names, write_table

if TYPE_CHECKING:
    from k2core.corpus.quality.grading import Graded
    from k2core.corpus.quality.reading import Part

SECTION = "grade"


class Params(GradingConfig):
    """How documents are graded."""

    judge: JudgeConfig = Field(description="what the LLM judges")
    llm: dict[str, Any] = own_llm()


def run(
    params: Params,
    llm: LLMConfig,
    compute: Compute,
    corpus: Corpus,
    documents: Path,
    attributes: Path,
    out: Path,
    job: Job,
) -> Metrics:
    """Write the parts and the quality of each documents' table to a table of the same name and row order.

    Of all documents at once there are numbers alone. What is read of a shard, what is learnt of a domain and how a
    shard is scored are in `job.scratch` once they are done, and are not done again.
    """
    from k2core.corpus.quality.grading import Scoring, grade_domain, learn
    from k2core.corpus.quality.reading import ASIDE, Reading, parts_of

    llm = llm.with_own(params.llm, "grade.llm")
    names = table_names(documents)
    counts = {name: count_rows(documents / name) for name in names}
    if not any(counts.values()):
        raise StageError(f"{documents}: its tables have no documents; run ingest again")
    reading = Reading(
        documents, attributes, job.scratch / "read", params.classifier.characters, params.embedding_characters,
        params.judge, compute.seed,
    )  # fmt: skip
    _map(reading, reading.folder, "reading", counts, corpus, job)
    for name in names:
        for id in parse_json((reading.folder / name / ASIDE).read_text(encoding="utf-8")):
            job.say(f"{name}: {id} killed its process, so it is graded as an empty text")
    parts = parts_of(reading.folder, names)
    samples = {domain: _sample(of_domain, params.judge, compute.seed) for domain, of_domain in parts.items()}
    judged = {domain: excerpts(domain, chosen, params.judge) for domain, chosen in samples.items()}
    grades = _ask(judged, llm, compute, job)
    scoring = Scoring(reading.folder, job.scratch / "learnt", job.scratch / "scored")
    by_llm: dict[str, dict[int, int | None]] = {}
    for domain, chosen in samples.items():
        by_llm[domain] = dict(zip((item.number for item in chosen), grades[domain], strict=False))  # intact ones first
        if not (scoring.learnt / domain).exists():
            job.say(f"learning to tell good documents from poor ones: {domain}")
            learn(parts[domain], by_llm[domain], params, compute.seed, scoring.learnt / domain)
    _map(scoring, scoring.folder, "classifier and embedding", counts, corpus, job)
    graded = {
        domain: grade_domain(domain, parts[domain], scoring, judged[domain], by_llm[domain], params, compute.seed)
        for domain in parts
    }
    _write(out, documents, names, parts, graded)
    return _figures(params, graded, judged, grades)


def _map(
    work: Callable[[str, Watch], None], folder: Path, what: str, counts: dict[str, int], corpus: Corpus, job: Job
) -> None:
    """Do the work on each shard that is not in `folder`; `counts` has the documents of each."""
    left = [name for name in counts if not (folder / name).exists()]
    done = sum(count for name, count in counts.items() if name not in left)
    with job.progress(sum(counts.values()), "document", done, what) as bar:
        for name, _ in map_shards(work, left, corpus, job.scratch / "workers" / folder.name):
            bar.update(counts[name])


def _sample(parts: Sequence[Part], judge: JudgeConfig, seed: int) -> list[Candidate]:
    chosen: list[Candidate] = []
    for part in parts:
        chosen = drawn([*chosen, *part.candidates], judge, seed)
    return chosen


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


def _write(
    out: Path, documents: Path, names: Sequence[str], parts: dict[str, list[Part]], graded: dict[str, Graded]
) -> None:
    import numpy as np
    import pyarrow as pa

    schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in (*PARTS, "quality"))])
    of_table = {
        name: [(domain, part) for domain in parts for part in parts[domain] if part.table == name] for name in names
    }
    for name in names:
        ids = read_columns(documents / name, ["id"])["id"].to_pylist()
        columns = {column: np.full(len(ids), np.nan) for column in (*PARTS, "quality")}
        for domain, part in of_table[name]:
            own = slice(part.first, part.first + len(part))
            for column in PARTS:
                columns[column][part.rows_N] = graded[domain].parts[column][own]
            columns["quality"][part.rows_N] = graded[domain].quality_N[own]
        values = (column.tolist() for column in columns.values())
        rows = (
            {"id": id, **{key: None if value != value else value for key, value in zip(columns, row, strict=True)}}
            for id, *row in zip(ids, *values, strict=True)
        )
        write_table(out / name, rows, schema)


def _figures(
    params: Params,
    graded: dict[str, Graded],
    judged: dict[str, list[Excerpt]],
    grades: dict[str, list[int | None]],
) -> Metrics:
    import numpy as np

    from k2core.corpus.quality.grading import judge_figures, validation

    items = [item for domain in judged for item in judged[domain]]
    given = [grade for domain in judged for grade in grades[domain]]
    intact = [grade for item, grade in zip(items, given, strict=True) if not item.damage]
    documents = sum(map(len, graded.values()))
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
        values = item.parts["llm"][~np.isnan(item.parts["llm"])].tolist()
        figures |= {f"llm/mean_grade/{domain}": sum(values) / len(values)} if values else {}
        figures[f"mean_rules/{domain}"] = sum(item.parts["rules"].tolist()) / len(item)
    area, lowest, highest = auc(by_llm[True], by_llm[False])
    figures |= {"classifier/auc_llm": area, "classifier/auc_llm_low": lowest, "classifier/auc_llm_high": highest}
    everywhere = {part: np.concatenate([item.places[part] for item in graded.values()]) for part in PARTS}
    return figures | agreement(everywhere)


if __name__ == "__main__":
    main(run, SECTION)
