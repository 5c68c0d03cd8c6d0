"""Answers that keep to their context (K2 §3.2.1): to what it says, also where that is wrong, and to its silence.

The context is some sentences of an encyclopedia article, and the question is made by grammar. Of three items one has
the sentence with the answer as it is; one has another answer of the same kind in its place, which no memory of the
article helps with; one lacks it, and is to be told so. The reply is judged sentence by sentence, by the rules of
`k2core/synthesis/fidelity/sentences.py` or by an LLM. Articles that a recipe holds out (at most a fifth) are held out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from pydantic import Field

from k2core.corpus.curation import split_of
from k2core.corpus.sources.builtin import wikipedia
from k2core.gym.base import HELDOUT_SHARE, Item, Split, answer, question, response_text
from k2core.gym.instructions.hacks import trick
from k2core.gym.instructions.kinds import words
from k2core.gym.judging import NO_MODELS, Models
from k2core.recipe import Section
from k2core.storage import fraction_of
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.sentences import SUPPORTED, faults
from k2core.synthesis.questions.grammar import Question, distractors, extract, title_of

UNSAID = "The text does not say."
RULE = f"Answer from this text alone, in one sentence or two. If it does not say, answer: {UNSAID}"
TURNS = ("as it is", "changed", "silent")
MOST_SENTENCES = 2
TIMES, MORE = 2, 120
"""A reply has at most so many times the gold's characters, and so many more."""
ARTICLES = 4000
"""Articles that are asked about: some 1,700 questions to train on."""
NEAR = 400
"""Questions before and behind one among which another answer is looked for."""
CONTEXT_SAYS = (
    "Does the context say everything that the sentence says?",
    "Does the sentence say anything that the context denies or does not say?",
)


class FaithfulnessSettings(Section):
    """How long the context is, and who judges."""

    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    around: int = Field(ge=2, le=20, description="sentences of the article beside the one with the answer")
    judge: dict[str, Any] | None = Field(
        description="an LLM judges each sentence: keys of gym.llm that are different for it; null: rules judge"
    )


@dataclass(frozen=True)
class Asked:
    """A question about an article."""

    article: str
    question: Question
    text: str


def context_of(asked: Question, text: str, turn: str, other: str, around: int, random: Random) -> tuple[list[str], str]:
    """The sentences that are shown, and the one of them with the answer: `other` if it is changed, none if silent.

    Raises:
        ValueError: the article has too few sentences without the answer.
    """
    lines = without(asked.answer, text)[:around]
    if len(lines) < around:
        raise ValueError(f"{len(lines)} sentences do not hold the answer, {around} are needed")
    if turn == "silent":
        return lines, ""
    sentence = asked.sentence.replace(asked.answer, other) if turn == "changed" else asked.sentence
    lines.insert(random.randint(1, around), sentence)
    return lines, sentence


def without(part: str, text: str) -> list[str]:
    """The sentences of a text that do not hold `part`."""
    return [line for line in re.split(r"(?<=[.!?])\s+", text) if line and part.lower() not in line.lower()]


@dataclass(frozen=True)
class Faithfulness:
    """Questions on contexts, in an order by chance."""

    name: str
    settings: FaithfulnessSettings
    models: Models = field(default=NO_MODELS, repr=False, compare=False)

    @property
    def max_new_tokens(self) -> int:
        """Token budget of a response."""
        return self.settings.max_new_tokens

    def size(self, split: Split) -> int:
        """As many as the articles give."""
        return len(_questions(self.settings.around)[split])

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Question number `index`; what is done with its text follows from the number."""
        every = _questions(self.settings.around)[split]
        one, turn = every[index], TURNS[index % len(TURNS)]
        random = Random(f"{seed}/{self.name}/{one.article}/{one.question.question}")
        gold, other = one.question.answer, one.question.answer
        if turn == "changed":
            near = [each.question for each in every[max(0, index - NEAR) : index + NEAR]]
            try:
                gold = other = distractors(one.question, near, 1, seed)[0]
            except ValueError:  # no other answer of the kind: the text stays as it is
                turn = "as it is"
        lines, sentence = context_of(one.question, one.text, turn, other, self.settings.around, random)
        context = " ".join(lines)
        return Item(
            f"faithfulness/{one.article}/{one.question.question}",
            question(f"{context}\n\n{RULE}\n{one.question.question}"),
            answer(sentence or UNSAID),
            meta={"turn": turn, "context": context, "answer": gold if sentence else ""},
        )

    def score(self, item: Item, completion: str) -> float:
        """1 if the reply gives the context's answer, or says that there is none, and each sentence is supported."""
        reply, gold = response_text(completion), item.gold["content"]
        if trick(reply, [RULE.partition(" If ")[0]], [], TIMES * len(gold) + MORE, prose=False):
            return 0.0
        if not item.meta["answer"]:
            return float(words(reply) == words(UNSAID))
        own = facts.sentences(reply)
        answered = _holds(reply, item.meta["answer"]) and not _holds(reply, UNSAID)
        if not answered or len(own) > MOST_SENTENCES or any("?" in sentence for sentence in own):
            return 0.0
        return float(all(self._supported(item.meta["context"], sentence) for sentence in own))

    def _supported(self, context: str, sentence: str) -> bool:
        if self.settings.judge is None:
            return faults(context, sentence, _common()) == [SUPPORTED]
        shown = f"CONTEXT: {context}\nSENTENCE: {sentence}"
        return self.models.agrees(f"gym.faithfulness.{self.name}.judge", self.settings.judge, shown, *CONTEXT_SAYS)


def _holds(text: str, part: str) -> bool:
    """Whether the words of `part` are in `text` in a row, capitals and punctuation aside."""
    return f" {' '.join(words(part))} " in f" {' '.join(words(text))} "


@cache
def _articles() -> list[tuple[str, str, str]]:
    """Id, title and text of each article."""
    whole = wikipedia.documents(wikipedia.Source(limit=ARTICLES, translations={}))
    return [(each.id, title_of(each.attribution), each.text) for each in whole]


@cache
def _common() -> frozenset[str]:
    return facts.common_words(text for _, _, text in _articles())


@cache
def _questions(around: int) -> dict[Split, list[Asked]]:
    """All questions that can be asked, by split."""
    found: dict[Split, list[Asked]] = {"train": [], "heldout": []}
    for article, title, text in _articles():
        split: Split = "heldout" if split_of(article, HELDOUT_SHARE) == "heldout" else "train"
        for made in extract(title, text):
            plain = not trick(made.sentence, [], [], len(made.sentence), prose=False)
            single = len(facts.sentences(made.sentence)) == 1 and "?" not in made.sentence
            if plain and single and len(without(made.answer, text)) >= around:
                found[split].append(Asked(article, made, text))
    return {
        split: sorted(every, key=lambda one: fraction_of(f"{one.article}/{one.question.question}"))
        for split, every in found.items()
    }  # fmt: skip


def make(settings: Mapping[str, FaithfulnessSettings], models: Models) -> list[Faithfulness]:
    """The environments of section `gym.faithfulness`."""
    return [Faithfulness(name, each, models) for name, each in settings.items()]
