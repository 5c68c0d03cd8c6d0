"""Questions about the held-out articles of a run: nothing is trained on these, nor on a question about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from k2core.corpus.curation import HELDOUT
from k2core.storage import StorageError, fraction_of, read_table
from k2core.synthesis.questions.grammar import Question, extract, title_of

AGREEMENT = 0.6
"""Least F1 over words (SQuAD's) for a reply to count as the answer, as the recipe's `questions.sampling` has it."""


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
