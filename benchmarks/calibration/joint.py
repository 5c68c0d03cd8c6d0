"""Labelled joint questions: about two linked articles, by rule, faithful ones and ones with a single fault.

A question names both articles, and its answer is a sentence of each, in other words (`faithful`). The faults are those
of the labelled set, put into one answer, and those of this kind of text alone: an answer from one article.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.calibration import corrupted
from benchmarks.calibration.corrupted import Fault, Material
from benchmarks.calibration.faithful import faithful
from benchmarks.calibration.formats import statements
from benchmarks.calibration.labelled import FAITHFUL, FOREIGN, Pair, foreign_summaries
from k2core.corpus.blocks import blocks_of
from k2core.corpus.documents import Document, document_schema
from k2core.storage import fraction_of, write_table
from k2core.synthesis.fidelity import facts
from k2core.synthesis.questions.grammar import title_of
from k2core.synthesis.rephrasing.linked import Titles

QUESTIONS = (
    "What are {first} and {second}?", "What else is told of {first}, and what of {second}?",
    "What more is there to know of {first} and of {second}?",
)  # fmt: skip
FAULTS: tuple[Fault, ...] = (
    corrupted.swapped_names, corrupted.swapped_numbers, corrupted.foreign_name, corrupted.changed_number,
    corrupted.changed_date, corrupted.added_sentence, corrupted.invented_clause, corrupted.negated,
    corrupted.reversed_relation, corrupted.unrelated, corrupted.wrong_language, corrupted.truncated, corrupted.repeated,
)  # fmt: skip
ONE_TEXT = ("first_alone", "second_alone", "apart", "half_an_answer")
"""Kinds of faults of joint questions alone: an answer, or all of them, from one of the texts."""
Said = list[tuple[str, str]]
"""What each answer says: a sentence of the first article and one of the second."""


@dataclass(frozen=True)
class Linked:
    """Two articles, the second one's title in the first one's text."""

    id: str
    first: str
    second: str
    titles: tuple[str, str]


@dataclass(frozen=True)
class JointPair(Pair):
    """A labelled pair of both texts and a rewrite."""

    linked: Linked


def linked_articles(documents: Sequence[Document], low: int, high: int) -> list[Linked]:
    """The articles of `low` to `high` characters that name another such one, with it."""
    fitting = [vars(document) for document in documents if low <= len(document.text) <= high]
    rows = [{**row, "split": "train"} for row in fitting]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "documents.parquet"
        write_table(path, rows, document_schema(("split", "string")))
        titles = Titles(blocks_of("all", path), low, high)
        having = [row for row in rows if titles.find(row) is not None]
        others = titles.partners(having)
        called = [tuple(title_of(one["attribution"]) for one in pair) for pair in zip(having, others, strict=True)]
        return [
            Linked(row["id"], row["text"], other["text"], (first, second))
            for row, other, (first, second) in zip(having, others, called, strict=True)
        ]


def joint(articles: Sequence[Linked], seed: int, common: frozenset[str], count: int) -> list[JointPair]:
    """Joint questions about `count` pairs of articles that rules can rewrite, and the same with one fault each."""
    written: list[tuple[Linked, Said]] = []
    for linked in sorted(articles, key=lambda linked: fraction_of(f"{seed}/joint/{linked.id}")):
        sides = [faithful(text, Random(f"{seed}/{linked.id}/{text}")) for text in (linked.first, linked.second)]
        if len(written) == count:
            break
        if all(sides):
            written.append((linked, list(zip(*(facts.sentences(side or "") for side in sides), strict=False))))
    abroad = [text for language in FOREIGN for text in foreign_summaries(language)]
    return [pair for place in range(len(written)) for pair in _of(written, place, seed, common, abroad)]


def put(titles: tuple[str, str], answers: Sequence[str], questions: Sequence[str] = QUESTIONS) -> str:
    """Answers, three at most, under their questions."""
    first, second = (title.partition(" (")[0] for title in titles)
    asked = [question.format(first=first, second=second) for question in questions]
    return "\n".join(f"Question: {one}\nAnswer: {answer}" for one, answer in zip(asked, answers, strict=False))


def put_whole(title: str, text: str, other_title: str, other: str) -> str:
    """All of `text` with the first sentences of `other`, three at most, as joint questions about both."""
    own, theirs = statements(text), facts.sentences(other)
    count = min(len(own), len(theirs), len(QUESTIONS))
    own = [*own[: count - 1], " ".join(own[count - 1 :])]
    return put((title, other_title), [" ".join(sides) for sides in zip(own, theirs, strict=False)])


def _of(
    written: Sequence[tuple[Linked, Said]], place: int, seed: int, common: frozenset[str], abroad: Sequence[str]
) -> Iterator[JointPair]:
    linked, said = written[place]
    said, (_, elsewhere) = said[: len(QUESTIONS)], written[(place + 1) % len(written)]
    answers = [" ".join(sides) for sides in said]
    source, random = f"{linked.first}\n\n{linked.second}", Random(f"{seed}/{linked.id}")
    held_out = fraction_of(f"{seed}/half/{linked.id}") < 0.5

    def made(rewrite: str, kind: str) -> JointPair:
        return JointPair(linked.id, source, rewrite, kind, held_out, linked)

    yield made(put(linked.titles, answers), FAITHFUL)
    for side, kind in enumerate(ONE_TEXT[:2]):
        yield made(put(linked.titles, [sides[side] for sides in said]), kind)
    yield made(put(linked.titles, said[0], ("What is {first}?", "What is {second}?")), ONE_TEXT[2])
    short = random.randrange(len(said))
    half = [random.choice(said[number]) if number == short else answer for number, answer in enumerate(answers)]
    yield made(put(linked.titles, half), ONE_TEXT[3])
    for fault in FAULTS:
        at = len(said) - 1 if fault is corrupted.truncated else random.randrange(len(said))
        material = Material(source, answers[at], " ".join(elsewhere[0]), random.choice(abroad), common)
        broken = fault(material, Random(f"{seed}/{linked.id}/{fault.__name__}"))
        if broken and broken != answers[at]:
            yield made(put(linked.titles, [*answers[:at], broken, *answers[at + 1 :]]), fault.__name__)
