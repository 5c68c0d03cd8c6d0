"""Question-answer pairs from training documents, for the anneal phase (K1.5 appendix B: rejection sampling).

A grammar asks about encyclopedia articles, the LLM about passages; its pairs stay if it answers its own question alike
with the passage in view. Problems are solved by the LLM where it can, else by their worked solution. What is rejected
is kept with the reason. A killed run continues from its replay cache.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus.blocks import blocks_of
from k2core.corpus.curation import CONTAMINATED, HELDOUT, TRAIN, DecontaminationConfig, decontaminate
from k2core.corpus.documents import COLUMNS, Sample, document_schema, sample
from k2core.corpus.sources.builtin import mathematics
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import write_table
from k2core.synthesis.questions.grammar import title_of
from k2core.synthesis.questions.pairs import (
    ACCEPTED,
    GRAMMAR,
    MODEL,
    Outcome,
    Pair,
    Row,
    Sampling,
    ask,
    by_grammar,
    by_model,
    confirm,
    exchanged,
)  # fmt: skip
from k2core.synthesis.questions.problems import SOLVED, WORKED, problem_of, solve, worked

SECTION = "questions"
_BY = {
    GRAMMAR: "question made by grammar",
    MODEL: "question and answer made by a language model",
    SOLVED: "solved by a language model",
    WORKED: "as question and answer",
}


class Params(Section):
    """How many pairs are made, and how they are checked."""

    articles: int = Field(ge=0, description="encyclopedia articles that the grammar asks about; all if there are fewer")
    passages: int = Field(ge=0, description="articles for each of which the LLM makes one pair")
    min_characters: int = Field(ge=1, description="shorter articles are not given to the LLM")
    max_characters: int = Field(ge=1, description="longer articles are not given to the LLM")
    checked: int = Field(ge=0, description="the grammar's pairs, with right and wrong answers, that measure the check")
    problems: int = Field(ge=0, description="problems of the mathematics source that become pairs")
    attempted: int = Field(ge=0, description="problems among them that the LLM tries to solve")
    solution_tokens: int = Field(ge=16, description="tokens that the LLM's solution of a problem may have")
    sampling: Sampling = Field(description="rejection sampling of what the LLM makes")
    decontamination: DecontaminationConfig = Field(description="passages of evaluation that no pair may hold")
    llm: dict[str, Any] = own_llm()


def run(params: Params, llm: LLMConfig, compute: Compute, curated: Path, tasks: Path, out: Path, job: Job) -> Metrics:
    """Write the accepted pairs as documents, and the rejected ones with their reasons."""
    llm = llm.with_own(params.llm, "questions.llm")
    if not (params.articles or params.passages or params.problems):
        job.say("skipped: questions.articles, passages and problems are 0; the tables are empty")
        _write(out, [])
        return _figures([], 0, {})
    compute.apply()
    drawn = _drawn(curated / "documents.parquet", params)
    asked, passages = drawn.asked.items, drawn.passages.items
    found = by_grammar(asked)
    measured = sample(list(found), params.checked, lambda pair: f"questions/check/{pair.source_id}/{pair.question}")
    problems = [problem_of(row) for row in drawn.problems.items]
    attempted = sample(problems, params.attempted, lambda problem: f"questions/solve/{problem.source_id}")
    samples = params.sampling.samples
    job.say(
        f"{len(found):,} pairs by grammar from {len(asked):,} articles; the LLM makes {len(passages)}, answers "
        f"{len(measured)} known ones and solves {len(attempted)} of {len(problems)} problems, {samples} times each"
    )
    total = len(passages) + samples * (len(measured) + len(attempted))
    with LLM.open(llm, compute, job.answers) as model, job.progress(total, "answer") as bar:
        made = by_model(model, passages, params.sampling, compute.seed, bar)
        said = ask(model, measured, params.sampling, compute.seed, bar)
        solutions = solve(model, attempted, params.sampling, params.solution_tokens, compute.seed, bar)
    solved = {outcome.pair.source_id for outcome in solutions if outcome.reason == ACCEPTED}
    outcomes = [Outcome(pair, ACCEPTED) for pair in found]
    outcomes += made + solutions
    outcomes += [Outcome(worked(problem), ACCEPTED) for problem in problems if problem.source_id not in solved]
    outcomes = _distinct(outcomes)

    sources = {row["id"]: row for row in (*asked, *passages, *drawn.problems.items)}
    entries = [(outcome, _document(outcome.pair, sources, place)) for place, outcome in enumerate(outcomes)]
    accepted = [{**row, "split": TRAIN} for outcome, row in entries if outcome.reason == ACCEPTED]
    contaminated = _contaminated(accepted, drawn.heldout, tasks, params)
    ended = [
        (Outcome(outcome.pair, CONTAMINATED, outcome.agreed) if row["id"] in contaminated else outcome, row)
        for outcome, row in entries
    ]
    if len(accepted) == len(contaminated):
        reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(o.reason for o, _ in ended).most_common(3))
        raise StageError(
            f"no question-answer pair is left of {len(ended)} ({reasons or 'no document fits'}); raise "
            "questions.articles, passages or problems, ingest encyclopedia articles, or set all three to 0"
        )
    _write(out, ended)
    wrong = exchanged(found, measured, compute.seed)
    check = {
        "right_accepted": [
            confirm(pair, answers, params.sampling) for pair, answers in zip(measured, said, strict=True)
        ],
        "wrong_accepted": [confirm(pair, answers, params.sampling) for pair, answers in zip(wrong, said, strict=True)],
    }
    return _figures([outcome for outcome, _ in ended], len(asked), check)


@dataclass(frozen=True)
class _Drawn:
    """What is taken of the curated documents; the texts of the others are read and forgotten."""

    asked: Sample[Row]
    passages: Sample[Row]
    problems: Sample[Row]
    heldout: list[Row]


def _drawn(path: Path, params: Params) -> _Drawn:
    drawn = _Drawn(
        Sample(params.articles, lambda row: f"questions/{row['id']}"),
        Sample(params.passages, lambda row: f"questions/passage/{row['id']}"),
        Sample(params.problems, lambda row: f"questions/{row['id']}"),
        [],
    )
    for block in blocks_of("curated", path):
        rows = block.read([*COLUMNS, "split"]).to_pylist()
        train = [row for row in rows if row["split"] == TRAIN]
        articles = [row for row in train if row["language"] == "en" and title_of(row["attribution"])]
        drawn.asked.see(articles)
        drawn.passages.see(
            row for row in articles if params.min_characters <= len(row["text"]) <= params.max_characters
        )
        drawn.problems.see(row for row in train if row["source"] == mathematics.NAME)
        drawn.heldout.extend(row for row in rows if row["split"] == HELDOUT)
    return drawn


def _distinct(outcomes: list[Outcome]) -> list[Outcome]:
    """Of accepted pairs that say the same, the first stays."""
    seen: set[str] = set()
    distinct = []
    for outcome in outcomes:
        repeats = outcome.reason == ACCEPTED and outcome.pair.text in seen
        distinct.append(Outcome(outcome.pair, "duplicate", outcome.agreed) if repeats else outcome)
        seen |= {outcome.pair.text} if outcome.reason == ACCEPTED else set()
    return distinct


def _contaminated(accepted: list[Row], heldout: list[Row], tasks: Path, params: Params) -> set[str]:
    from k2core.evals.text_sets import text_sets

    return set(decontaminate([*accepted, *heldout], text_sets(tasks), params.decontamination)[0])


def _document(pair: Pair, sources: dict[str, Row], place: int) -> Row:
    source = sources[pair.source_id]
    return {
        **{name: source[name] for name in COLUMNS},
        "id": f"questions/{pair.maker}/{pair.source_id}#{place}",
        "text": pair.text,
        "source": f"questions/{pair.maker}",
        "origin": pair.source_id,
        "attribution": f"{source['attribution']}; {_BY[pair.maker]}",
    }


def _write(out: Path, ended: list[tuple[Outcome, Row]]) -> None:
    """The accepted pairs as documents, the rejected ones with what was wrong."""
    import pyarrow as pa

    write_table(out / "documents.parquet", [row for o, row in ended if o.reason == ACCEPTED], document_schema())
    texts = ("maker", "passage", "question", "answer", "reason")
    schema = document_schema(*((name, pa.string()) for name in texts), ("agreed", pa.int64()))
    rows: list[dict[str, Any]] = []
    for outcome, row in ended:
        if outcome.reason == ACCEPTED:
            continue
        pair = outcome.pair
        made = {"maker": pair.maker, "passage": pair.passage, "question": pair.question, "answer": pair.answer}
        rows.append({**row, **made, "reason": outcome.reason, "agreed": outcome.agreed})
    write_table(out / "rejected.parquet", rows, schema)


def _figures(outcomes: list[Outcome], articles: int, check: dict[str, list[Outcome]]) -> Metrics:
    figures: Metrics = {"pairs": float(sum(outcome.reason == ACCEPTED for outcome in outcomes))}
    for maker in (GRAMMAR, MODEL, SOLVED, WORKED):
        own = [outcome.reason == ACCEPTED for outcome in outcomes if outcome.pair.maker == maker]
        figures[f"accepted/{maker}"] = float(sum(own))
        if own:
            figures[f"accepted_share/{maker}"] = sum(own) / len(own)
    if articles:
        figures["grammar_pairs_per_article"] = figures[f"accepted/{GRAMMAR}"] / articles
    for name, judged in check.items():
        if judged:
            figures[f"check/{name}"] = sum(outcome.reason == ACCEPTED for outcome in judged) / len(judged)
    for reason, count in sorted(Counter(o.reason for o in outcomes if o.reason != ACCEPTED).items()):
        figures[f"rejected/{reason}"] = float(count)
    return figures


if __name__ == "__main__":
    main(run, SECTION)
