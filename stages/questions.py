"""Question-answer pairs from training documents, for the anneal phase (K1.5 appendix B: rejection sampling).

A grammar asks about encyclopedia articles, the LLM about passages; its pairs stay if it answers its own question alike
with the passage in view. Problems are solved by the LLM where it can, else by their worked solution. What is rejected
is kept with the reason. The curated table is read a block at a time. A killed run continues after the finished
blocks, and within one from its replay cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.corpus.blocks import Block, blocks_of, documents_of
from k2core.corpus.curation import HELDOUT, TRAIN, Contamination, DecontaminationConfig, write_passages
from k2core.corpus.documents import Lowest, Sample, sample
from k2core.corpus.sources.builtin import mathematics
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import publish
from k2core.synthesis.questions.grammar import Question, title_of
from k2core.synthesis.questions.pairs import (
    ACCEPTED,
    GRAMMAR,
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
from k2core.synthesis.questions.problems import problem_of, solve, worked
from k2core.synthesis.questions.tables import MAKERS, answers_in, grammar_pairs, join_blocks, write_block

if TYPE_CHECKING:
    from tqdm import tqdm

SECTION = "questions"
_POOL = 2**14
"""The grammar's pairs from which wrong answers are taken."""


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
        return _figures(join_blocks([], None, out), 0, {})
    compute.apply()
    blocks = blocks_of("curated", curated / "documents.parquet")
    drawn = _drawn(blocks, params, job.scratch / HELDOUT)
    folders = [job.scratch / "blocks" / block.name for block in blocks]
    samples = params.sampling.samples
    job.say(
        f"pairs by grammar from {len(drawn.asked):,} articles; the LLM makes {len(drawn.passages):,}, answers "
        f"{params.checked:,} known ones and solves {len(drawn.attempted):,} of {len(drawn.problems):,} problems, "
        f"{samples} times each"
    )
    search = _search(blocks, tasks, params, job)
    total = len(drawn.passages) + samples * len(drawn.attempted)
    done = sum(answers_in(folder, samples) for folder in folders)
    with LLM.open(llm, compute, job.answers) as model:
        with job.progress(total, "answer", done) as bar:
            for block, folder in zip(blocks, folders, strict=True):
                if not folder.exists():
                    _make(model, drawn.of(documents_of(block)), params, compute.seed, folder, bar)
        check = _check(model, folders, params, compute.seed, job)
    counts = join_blocks(folders, search, out)
    if not sum(number for (_, reason), number in counts.items() if reason == ACCEPTED):
        reasons: Counter[str] = Counter()
        for (_, reason), number in counts.items():
            reasons[reason] += number
        most = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(3))
        raise StageError(
            f"no question-answer pair is left of {counts.total()} ({most or 'no document fits'}); raise "
            "questions.articles, passages or problems, ingest encyclopedia articles, or set all three to 0"
        )
    return _figures(counts, len(drawn.asked), check)


@dataclass(frozen=True)
class _Chosen:
    """What is taken of a block."""

    asked: list[Row]
    passages: list[Row]
    problems: list[Row]
    attempted: frozenset[str]


@dataclass(frozen=True)
class _Drawn:
    """What is taken of the curated documents: hashes alone. `attempted` are some of the `problems`."""

    params: Params
    asked: Lowest
    passages: Lowest
    problems: Lowest
    attempted: Lowest

    def see(self, rows: Sequence[Row]) -> None:
        """Take some of the documents into account."""
        articles = _articles(rows)
        self.asked.see(f"questions/{row['id']}" for row in articles)
        self.passages.see(f"questions/passage/{row['id']}" for row in articles if self._fits(row))
        self.problems.see(f"questions/{row['id']}" for row in _problems(rows))

    def attempt(self, rows: Sequence[Row]) -> None:
        """Take some of the documents into account, all of which were seen before, for what is attempted."""
        own = (row["id"] for row in _problems(rows) if f"questions/{row['id']}" in self.problems)
        self.attempted.see(f"questions/solve/{id}" for id in own)

    def of(self, rows: Sequence[Row]) -> _Chosen:
        """What is taken of some of the documents."""
        articles = _articles(rows)
        problems = [row for row in _problems(rows) if f"questions/{row['id']}" in self.problems]
        return _Chosen(
            [row for row in articles if f"questions/{row['id']}" in self.asked],
            [row for row in articles if self._fits(row) and f"questions/passage/{row['id']}" in self.passages],
            problems,
            frozenset(row["id"] for row in problems if f"questions/solve/{row['id']}" in self.attempted),
        )

    def _fits(self, row: Row) -> bool:
        return self.params.min_characters <= len(row["text"]) <= self.params.max_characters


def _articles(rows: Sequence[Row]) -> list[Row]:
    train = (row for row in rows if row["split"] == TRAIN and row["language"] == "en")
    return [row for row in train if title_of(row["attribution"])]


def _problems(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["split"] == TRAIN and row["source"] == mathematics.NAME]


def _drawn(blocks: list[Block], params: Params, heldout: Path) -> _Drawn:
    """The first pass; the passages of held-out documents go into a folder of `heldout` for each block."""
    from k2core.corpus.duplicates.passages import spill

    drawn = _Drawn(params, *map(Lowest, (params.articles, params.passages, params.problems, params.attempted)))
    for block in blocks:
        rows = documents_of(block)
        drawn.see(rows)
        if not (folder := heldout / block.name).exists():
            with publish(folder) as scratch:
                texts = ((row["id"], row["text"]) for row in rows if row["split"] == HELDOUT)
                spill(scratch, texts, params.decontamination.heldout_words)
    for block in blocks:
        drawn.attempt(block.read(["id", "source", "split"]).to_pylist())
    return drawn


def _make(model: LLM, chosen: _Chosen, params: Params, seed: int, folder: Path, bar: tqdm) -> None:
    """Publish a block's pairs; `bar` counts answers."""
    found = by_grammar(chosen.asked)
    problems = [problem_of(row) for row in chosen.problems]
    attempted = [problem for problem in problems if problem.source_id in chosen.attempted]
    made = by_model(model, chosen.passages, params.sampling, seed, bar)
    solutions = solve(model, attempted, params.sampling, params.solution_tokens, seed, bar)
    solved = {outcome.pair.source_id for outcome in solutions if outcome.reason == ACCEPTED}
    unsolved = (worked(problem) for problem in problems if problem.source_id not in solved)
    outcomes = [*(Outcome(pair, ACCEPTED) for pair in found), *made, *solutions]
    outcomes += [Outcome(pair, ACCEPTED) for pair in unsolved]
    sources = {row["id"]: row for row in (*chosen.asked, *chosen.passages, *chosen.problems)}
    write_block(folder, outcomes, sources, found)


def _check(model: LLM, folders: list[Path], params: Params, seed: int, job: Job) -> dict[str, list[Outcome]]:
    """What the check says of some of the grammar's pairs, with right and with wrong answers."""

    def key(one: tuple[Pair, Question]) -> str:
        return f"questions/check/{one[0].source_id}/{one[0].question}"

    pool = Sample(max(params.checked, _POOL), key)
    for pairs in grammar_pairs(folders):
        pool.see(pairs)
    measured = [pair for pair, _ in sample(pool.items, params.checked, key)]
    with job.progress(params.sampling.samples * len(measured), "answer", what="check") as bar:
        said = ask(model, measured, params.sampling, seed, bar)
    wrong = exchanged(dict(pool.items), measured, seed)
    return {
        name: [confirm(pair, answers, params.sampling) for pair, answers in zip(pairs, said, strict=True)]
        for name, pairs in (("right_accepted", measured), ("wrong_accepted", wrong))
    }


def _search(blocks: list[Block], tasks: Path, params: Params, job: Job) -> Contamination:
    from k2core.evals.text_sets import text_sets

    passages = job.scratch / "passages"
    if not passages.exists():
        heldout = [job.scratch / HELDOUT / block.name for block in blocks]
        write_passages(text_sets(tasks), heldout, params.decontamination, passages)
    return Contamination(passages)


def _figures(counts: Counter[tuple[str, str]], articles: int, check: dict[str, list[Outcome]]) -> Metrics:
    """Figures of the pairs that a maker has with a reason."""
    figures: Metrics = {"pairs": float(sum(counts[maker, ACCEPTED] for maker in MAKERS))}
    for maker in MAKERS:
        made = sum(number for (by, _), number in counts.items() if by == maker)
        figures[f"accepted/{maker}"] = float(counts[maker, ACCEPTED])
        if made:
            figures[f"accepted_share/{maker}"] = counts[maker, ACCEPTED] / made
    if articles:
        figures["grammar_pairs_per_article"] = figures[f"accepted/{GRAMMAR}"] / articles
    for name, judged in check.items():
        if judged:
            figures[f"check/{name}"] = sum(outcome.reason == ACCEPTED for outcome in judged) / len(judged)
    for reason in sorted({reason for _, reason in counts} - {ACCEPTED}):
        figures[f"rejected/{reason}"] = float(sum(counts[maker, reason] for maker in MAKERS))
    return figures


if __name__ == "__main__":
    main(run, SECTION)
