"""Question-answer pairs for the anneal phase, and the rejection sampling that they pass (K1.5 appendix B, K2 §2.2).

Two makers: the grammar of `questions` (exact by construction) and a language model that reads a passage. The
model's pair is kept if its form is right and if the model, asked the question with the passage, gives the same answer
often enough. The grammar's pairs, with right and with exchanged answers, show how far that check can be trusted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from k2core.llm.client import Answer, Request
from k2core.recipe import Section
from k2core.synthesis.fidelity import facts
from k2core.synthesis.questions.grammar import Question, distractors, extract, title_of

if TYPE_CHECKING:
    from tqdm import tqdm

    from k2core.llm.client import LLM

Row = dict[str, Any]
GRAMMAR, MODEL = "grammar", "llm"
ACCEPTED = "accepted"
_LONGEST_QUESTION, _LONGEST_ANSWER = 200, 140
_PAIR_TOKENS, _ANSWER_TOKENS = 48, 24
_INTERROGATIVE = re.compile(
    r"(?:(?:In|On|At|By|For|From|Of|To|With|After|During|Under|Into|Through) )?"
    r"(?:who|whom|whose|what|which|when|where|why|how|is|was|are|were|do|does|did|can|has|have)\b",
    re.IGNORECASE,
)
_PAIR = re.compile(r"\s*+(?:Question:\s*+)?+(?P<question>[^\n]++)\n\s*+Answer:\s*+(?P<answer>[^\n]+)")
_WORD = re.compile(r"[^\W_]+")
_ARTICLES = {"a", "an", "the"}
_EXAMPLES = (
    (
        "The Nile is a river in Africa. It is 6,650 km long and flows through eleven countries.",
        "How long is the Nile?",
        "6,650 km",
    ),
    (
        "Marie Curie was a Polish and French physicist who won the Nobel Prize in Physics in 1903.",
        "Which prize did Marie Curie win in 1903?",
        "the Nobel Prize in Physics",
    ),
)
_MAKE = "Write a question about the text and its short answer, copied from the text.\n\nText: {passage}"
_ASK = "Text: {passage}\n\nAnswer the question in a few words from the text.\nQuestion: {question}"


class Sampling(Section):
    """Rejection sampling: how often a model is asked, and how often it must agree."""

    samples: int = Field(ge=1, description="answers sampled for each pair, and solutions for each problem")
    agreeing: int = Field(ge=1, description="answers among them that must equal the pair's for it to be kept")
    agreement: float = Field(gt=0, le=1, description="least F1 over words (SQuAD's) for two answers to count as one")
    temperature: float = Field(ge=0, le=2, description="sampling temperature of questions, answers and solutions")

    @model_validator(mode="after")
    def _can_agree(self) -> Sampling:
        if self.agreeing > self.samples:
            raise ValueError(f"agreeing = {self.agreeing} is more than samples = {self.samples}; no pair could stay")
        return self


@dataclass(frozen=True)
class Pair:
    """A question and its answer, made by `maker` from `passage`, a text of the document `source_id`."""

    maker: str
    source_id: str
    passage: str
    question: str
    answer: str

    @property
    def text(self) -> str:
        """The pair as a document; the answer to a problem has its steps, and the word "Answer" before its result."""
        label = "" if "\nAnswer: " in f"\n{self.answer}" else "Answer: "
        return f"Question: {self.question}\n{label}{self.answer}"


@dataclass(frozen=True)
class Outcome:
    """What became of a pair: `accepted` or the reason against it, and how many of the sampled answers were the same."""

    pair: Pair
    reason: str
    agreed: int = 0


def by_grammar(rows: Sequence[Row]) -> dict[Pair, Question]:
    """The pairs that the grammar finds in encyclopedia articles, in the order of `rows`."""
    found = {}
    for row in rows:
        for question in extract(title_of(row["attribution"]), row["text"]):
            found[Pair(GRAMMAR, row["id"], row["text"], question.question, question.answer)] = question
    return found


def by_model(llm: LLM, rows: Sequence[Row], sampling: Sampling, seed: int, bar: tqdm | None = None) -> list[Outcome]:
    """One pair for each of `rows`, judged: first by its form, then by the model's own answers; `bar` counts pairs."""
    answers = llm.complete_many([_make(row["text"], sampling.temperature, seed) for row in rows], bar)
    pairs = [_parsed(row, answer) for row, answer in zip(rows, answers, strict=True)]
    asked = [pair for pair in pairs if not flaw(pair)]
    said = dict(zip(asked, ask(llm, asked, sampling, seed), strict=True))
    return [judge(pair, said.get(pair, []), sampling) for pair in pairs]


def judge(pair: Pair, said: Sequence[str], sampling: Sampling) -> Outcome:
    """A pair's outcome by its form and by the answers `said` to its question."""
    if reason := flaw(pair):
        return Outcome(pair, reason)
    return confirm(pair, said, sampling)


def confirm(pair: Pair, said: Sequence[str], sampling: Sampling) -> Outcome:
    """A pair's outcome by the answers `said` to its question alone."""
    agreed = sum(same(pair.answer, other, sampling.agreement) for other in said)
    return Outcome(pair, ACCEPTED if agreed >= sampling.agreeing else "not_confirmed", agreed)


def flaw(pair: Pair) -> str:
    """What is wrong with a pair by its form alone; empty if nothing is.

    In this order: `malformed` (no single question with a short answer), `answer_not_in_passage`,
    `question_holds_answer`.
    """
    question, answer = pair.question, pair.answer
    asks = _INTERROGATIVE.match(question) and question.endswith("?") and question.count("?") == 1
    lengths = len(question.split()) > 2 and len(question) <= _LONGEST_QUESTION and len(answer) <= _LONGEST_ANSWER
    if not asks or not lengths or not _content(answer):
        return "malformed"
    if not _within(answer, pair.passage):
        return "answer_not_in_passage"
    return "question_holds_answer" if _within(answer, question) else ""


def ask(llm: LLM, pairs: Sequence[Pair], sampling: Sampling, seed: int, bar: tqdm | None = None) -> list[list[str]]:
    """`sampling.samples` answers to each pair's question, given its passage; `bar` counts answers."""
    requests = [_ask(pair, sampling.temperature, seed + place) for pair in pairs for place in range(sampling.samples)]
    said = [answer.text for answer in llm.complete_many(requests, bar)]
    return [said[start : start + sampling.samples] for start in range(0, len(said), sampling.samples)]


def same(one: str, other: str, least: float) -> bool:
    """Whether two short answers say the same: equal numbers, and F1 over words (no articles) of at least `least`."""
    first, second = _content(one), _content(other)
    shared = sum((first & second).values())
    if not shared or facts.numbers(one) != facts.numbers(other):
        return False
    return 2 * shared / (first.total() + second.total()) >= least


def exchanged(pairs: dict[Pair, Question], chosen: Sequence[Pair], seed: int) -> list[Pair]:
    """The `chosen` pairs with the answer of another pair of the same kind: known to be wrong.

    Raises:
        ValueError: `pairs` are too few to exchange answers.
    """
    pool = list(pairs.values())
    answers = [distractors(pairs[pair], pool, 1, seed)[0] for pair in chosen]
    return [
        Pair(pair.maker, pair.source_id, pair.passage, pair.question, answer)
        for pair, answer in zip(chosen, answers, strict=True)
    ]


def _make(passage: str, temperature: float, seed: int) -> Request:
    examples = ((text, f"Question: {question}\nAnswer: {answer}") for text, question, answer in _EXAMPLES)
    turns = [*((_MAKE.format(passage=text), said) for text, said in examples), (_MAKE.format(passage=passage), "")]
    return Request(dialogue(turns), _PAIR_TOKENS, temperature, seed)


def _ask(pair: Pair, temperature: float, seed: int) -> Request:
    turns = [(_ASK.format(passage=text, question=question), answer) for text, question, answer in _EXAMPLES[:1]]
    turns.append((_ASK.format(passage=pair.passage, question=pair.question), ""))
    return Request(dialogue(turns), _ANSWER_TOKENS, temperature, seed)


def dialogue(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages of user and assistant in turn, without the last turn's answer, which is to come."""
    both = (((("user", said), ("assistant", answer))) for said, answer in turns)
    return [{"role": role, "content": text} for turn in both for role, text in turn][:-1]


def _parsed(row: Row, answer: Answer) -> Pair:
    """The pair in what the model wrote; without question and answer where it holds none or was cut off."""
    found = _PAIR.match(answer.text) if answer.finish_reason == "stop" else None
    question, short = (found["question"].strip(), found["answer"].strip()) if found else ("", "")
    return Pair(MODEL, row["id"], row["text"], question, short.rstrip("."))


def _within(short: str, text: str) -> bool:
    """Whether `short` is in `text` word for word, capitals and punctuation aside."""
    return _spaced(short) in _spaced(text)


def _spaced(text: str) -> str:
    return " " + " ".join(_WORD.findall(text.lower())) + " "


def _content(text: str) -> Counter[str]:
    return Counter(word for word in _WORD.findall(text.lower()) if word not in _ARTICLES)
