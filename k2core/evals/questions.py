"""Questions about the held-out articles of a run: nothing is trained on these, nor on a question about them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from k2core.corpus.curation import HELDOUT
from k2core.storage import StorageError, fraction_of, read_table
from k2core.synthesis.fidelity.facts import numbers
from k2core.synthesis.questions.grammar import Question, extract, title_of
from k2core.synthesis.questions.pairs import same

AGREEMENT = 0.6
"""Least F1 over words (SQuAD's) for a reply to count as the answer, as the recipe's `questions.sampling` has it."""
AROUND = 20
"""Words around the answer that a reply may have: a sentence, and no copy of a text."""


@dataclass(frozen=True)
class Asked:
    """A question that the grammar makes of an article, and the article's text."""

    key: str
    question: Question
    text: str


def heldout_questions(data: Path) -> list[Asked]:
    """The questions about the held-out encyclopedia articles of the folder `data` of a run, in an order by chance.

    Raises:
        StorageError: no curated documents, or no article among the held-out ones.
    """
    path = data / "curated" / "documents.parquet"
    found = [
        Asked(f"{row['id']}/{made.question}", made, row["text"])
        for row in read_table(path, ["id", "text", "language", "attribution", "split"])
        if row["split"] == HELDOUT and row["language"] == "en" and title_of(row["attribution"])
        for made in extract(title_of(row["attribution"]), row["text"])
    ]
    if not found:
        raise StorageError(f"{path}: no held-out encyclopedia article that the grammar can ask about")
    return sorted(found, key=lambda asked: fraction_of(asked.key))


def gives(reply: str, answer: str, asked: str) -> bool:
    """Whether a reply gives the answer: about the same words, or the answer in a sentence, and no number of its own.

    Args:
        asked: what the model was given, whose numbers it may repeat.
    """
    if same(answer, reply, AGREEMENT):
        return True
    short = len(_words(reply)) <= len(_words(answer)) + AROUND
    return short and holds(reply, answer) and numbers(reply) <= numbers(asked) | numbers(answer)


def holds(text: str, passage: str) -> bool:
    """Whether the words of `passage` are in `text` in a row, capitals and punctuation aside."""
    return f" {' '.join(_words(passage))} " in f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
