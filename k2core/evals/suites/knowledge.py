"""Questions about held-out encyclopedia articles, without the article: what a model knows from elsewhere.

Our models have never read these articles. Guessing gets nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from k2core.evals.final_answer import final
from k2core.evals.questions import Asked, gives, heldout_questions
from k2core.evals.suites import of_a_run
from k2core.gym.base import Item, Split, answer, question, response_text


@dataclass(frozen=True)
class Knowledge:
    """1 for the article's answer, alone or in a sentence."""

    asked: list[Asked]
    name: str = "knowledge"
    max_new_tokens: int = 32

    def size(self, split: Split) -> int:
        """Nothing is trained on."""
        return len(self.asked) if split == "heldout" else 0

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Question number `index`."""
        one = self.asked[index]
        return Item(
            f"{self.name}/{one.key}", question(f"{one.question.question} Answer in a few words."),
            answer(one.question.answer),
        )  # fmt: skip

    def score(self, item: Item, completion: str) -> float:
        """Whether the reply says what the article says."""
        reply = final(response_text(completion))
        return float(gives(reply, item.gold["content"], item.messages[-1]["content"]))


def make(data: Path | None) -> Knowledge:
    """The environment."""
    return Knowledge(heldout_questions(of_a_run(data)))
