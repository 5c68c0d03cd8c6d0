"""What is learnt and what is asked: articles with rephrasings and questions, and questions about other articles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.settings import Settings
from k2core.stage import StageError
from k2core.storage import fraction_of, write_json
from k2core.synthesis.questions.grammar import Question, distractors, extract, title_of

Rephrase = Callable[[list[tuple[str, str]]], list[list[str] | None]]
"""(title, text) of articles → their versions; None where an article cannot be rephrased."""
Link = Callable[[dict[str, Any]], tuple[str, str] | None]
"""A row of the curated table → title and text of the article that it names; None where it names none."""


@dataclass(frozen=True)
class Item:
    """A question with its answers to choose from; the right one is first."""

    question: str
    kind: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Article:
    """An article to learn; `stood_in` of its versions are the source itself, for want of an accepted rewrite.

    `title` is without a part in brackets. `linked` are title and text of another article, which this one names; empty
    where none was looked for.
    """

    id: str
    title: str
    text: str
    versions: tuple[str, ...]
    stood_in: int
    items: tuple[Item, ...]
    linked: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Material:
    """All that the arms are made from; `form` are questions with answers about articles that are not learnt."""

    articles: tuple[Article, ...]
    form: tuple[str, ...]
    heldout: tuple[str, ...]

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Material:
        """What `save` wrote."""
        content = json.loads(path.read_text())
        articles = tuple(
            Article(
                row["id"], row["title"], row["text"], tuple(row["versions"]), row["stood_in"],
                tuple(Item(item["question"], item["kind"], tuple(item["choices"])) for item in row["items"]),
                tuple(row["linked"]),
            )
            for row in content["articles"]
        )  # fmt: skip
        return cls(articles, tuple(content["form"]), tuple(content["heldout"]))

    def figures(self, texts: Iterable[str]) -> dict[str, float]:
        """Counts, and what could tilt the comparison; `texts` are all that an arm learns from."""
        versions = [version for article in self.articles for version in article.versions]
        items = [item for article in self.articles for item in article.items]
        read = "\n".join(texts)
        seen = sum(item.question in read for item in items)
        characters = sum(len(article.text) for article in self.articles)
        return {
            "articles": float(len(self.articles)),
            "questions": float(len(items)),
            "form_questions": float(len(self.form)),
            "stood_in_share": sum(article.stood_in for article in self.articles) / len(versions),
            "version_length_ratio": sum(map(len, versions)) / len(versions) / characters * len(self.articles),
            "questions_in_training_text": float(seen),
        }


def gather(
    documents: Sequence[dict[str, Any]], settings: Settings, seed: int, rephrase: Rephrase, link: Link | None = None
) -> Material:
    """Articles drawn by hash from the training summaries of Wikipedia, with `rephrase`'s versions.

    Args:
        documents: rows of the curated table.
        link: if given, only articles that name another one are learnt.

    Raises:
        StageError: too few articles fit, or no question has enough wrong answers.
    """
    low, high = settings.characters
    summaries = [row for row in documents if row["source"] == "wikipedia"]
    fitting, found = [], {}
    for row in sorted(summaries, key=lambda row: (fraction_of(f"{seed}/table1/{row['id']}"), row["id"])):
        if row["split"] == "train" and low <= len(row["text"]) <= high:
            found[row["id"]] = extract(title_of(row["attribution"]), row["text"])
            fitting.append(row)
    chosen: list[Article] = []
    candidates = (row for row in fitting if len(found[row["id"]]) >= settings.least_questions)
    if link:
        candidates = (row for row in candidates if link(row))
    while len(chosen) < settings.articles:
        rows = list(islice(candidates, settings.articles - len(chosen)))
        if not rows:
            raise StageError(
                f"{len(chosen)} articles of {low} to {high} characters have {settings.least_questions} questions and "
                f"can be rephrased, {settings.articles} are wanted; lower `articles` in table1.yaml or ingest more"
            )
        titles = [title_of(row["attribution"]) for row in rows]
        made = rephrase([(title, row["text"]) for title, row in zip(titles, rows, strict=True)])
        for title, row, versions in zip(titles, rows, made, strict=True):
            if versions is not None:
                stood_in = sum(version == row["text"] for version in versions)
                bare = title.partition(" (")[0]
                linked = (link and link(row)) or ("", "")
                chosen.append(Article(row["id"], bare, row["text"], tuple(versions), stood_in, (), linked))
    learnt = {article.id for article in chosen}
    # Wrong answers are of learnt articles too: the model has read all of them, none is merely more familiar.
    pool = [question for article in chosen for question in found[article.id]]
    chosen = [replace(article, items=_items(found[article.id], pool, settings.choices, seed)) for article in chosen]
    if not any(article.items for article in chosen):
        raise StageError(f"no question has {settings.choices - 1} wrong answers; raise `articles` or lower `choices`")
    form = [with_answer(q.question, q.answer) for row in fitting if row["id"] not in learnt for q in found[row["id"]]]
    heldout = [row["text"] for row in summaries if row["split"] == "heldout"][: settings.heldout_documents]
    if not heldout or (settings.form_share and not form):
        raise StageError("no held-out summary or no question about other articles; curate more documents")
    return Material(tuple(chosen), tuple(form), tuple(heldout))


def with_answer(question: str, answer: str) -> str:
    """A question and its answer as one text, in training as in evaluation."""
    return f"{question} {answer}"


def _items(questions: Sequence[Question], pool: Sequence[Question], choices: int, seed: int) -> tuple[Item, ...]:
    """The questions for which `pool` has enough wrong answers."""
    items = []
    for question in questions:
        with suppress(ValueError):  # a rare kind: the question is left out
            wrong = distractors(question, pool, choices - 1, seed)
            items.append(Item(question.question, question.kind, (question.answer, *wrong)))
    return tuple(items)
