"""Whether an answer keeps to its text (K2 §3.2.1): to what it says, also where that is wrong, and to its silence.

Of three items one has the text as it is, one has another answer of the same kind in its place, which no memory of the
article helps with, and one lacks the answer, and is to be told so. Saying always that gets a third.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from k2core.evals.final_answer import final
from k2core.evals.questions import AGREEMENT, Asked, gives, heldout_questions, holds
from k2core.evals.suites import of_a_run
from k2core.gym.base import Item, Split, answer, question, response_text
from k2core.gym.named.faithfulness import TURNS, UNSAID, context_of, without
from k2core.storage import StorageError
from k2core.synthesis.questions.grammar import distractors
from k2core.synthesis.questions.pairs import same

AROUND = 2
"""Sentences of the article beside the one with the answer."""


@dataclass(frozen=True)
class Faithfulness:
    """Questions whose article has sentences without the answer as well."""

    all_asked: list[Asked]
    name: str = "faithfulness"
    max_new_tokens: int = 32

    @cached_property
    def asked(self) -> list[Asked]:
        """The questions that can be asked."""
        return [one for one in self.all_asked if len(without(one.question.answer, one.text)) >= AROUND]

    def size(self, split: Split) -> int:
        """Nothing is trained on."""
        return len(self.asked) if split == "heldout" else 0

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Question number `index`; what is done with its text follows from the number."""
        one, turn = self.asked[index], TURNS[index % len(TURNS)]
        random = Random(f"{seed}/{self.name}/{one.key}")
        gold = self._another(one, seed) if turn == "changed" else one.question.answer
        lines, sentence = context_of(one.question, one.text, turn, gold, AROUND, random)
        gold = gold if sentence else UNSAID
        asked = (
            f"{' '.join(lines)}\n\nAnswer from this text alone, in a few words. If it does not say, answer: {UNSAID}\n"
            f"{one.question.question}"
        )
        return Item(f"{self.name}/{one.key}", question(asked), answer(gold), meta={"turn": turn})

    def _another(self, one: Asked, seed: int) -> str:
        """An answer of the same kind to another question; the own one where there is none."""
        try:
            return distractors(one.question, [other.question for other in self.all_asked], 1, seed)[0]
        except ValueError:
            return one.question.answer

    def score(self, item: Item, completion: str) -> float:
        """Whether the reply is what the text says, or that it says nothing; both at once is wrong."""
        reply, gold = response_text(completion), item.gold["content"]
        if gold == UNSAID:
            return float(same(UNSAID, reply, AGREEMENT))
        return float(gives(final(reply), gold, item.messages[-1]["content"]) and not holds(reply, UNSAID))


def make(data: Path | None) -> Faithfulness:
    """The environment.

    Raises:
        StorageError: the held-out articles are too few or too short.
    """
    made = Faithfulness(heldout_questions(of_a_run(data)))
    if not made.asked:
        raise StorageError(f"{data}: no held-out article is long enough to ask about its text")
    return made
