"""reasoning-gym's procedural tasks behind our interface: its items and its verifier, a shorter prompt.

A model of two million parameters reads short prompts best, so each task brings its own wording. Letters of words
are written apart, which spares the tiny tokenizer's uneven pieces; the verifier sees the word put together again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from k2core.gym.base import UNLIMITED, Item, Split, answer, first_of_split, question, response_text

Entry = dict[str, Any]


@dataclass(frozen=True)
class ReasoningGym:
    """One reasoning-gym task.

    Args:
        task: its name in reasoning-gym.
        config: its settings, as pairs.
        prompt: the question we ask, from reasoning-gym's entry.
        key: what an entry is about; decides the split.
        spaced: answers are written with spaces between their characters.
    """

    name: str
    task: str
    config: tuple[tuple[str, Any], ...]
    prompt: Callable[[Entry], str]
    key: Callable[[Entry], str]
    spaced: bool = False
    max_new_tokens: int = 24

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """The first fitting entry of a block of reasoning-gym's stream; each index has a block of its own."""
        dataset = _dataset(self.task, self.config, seed)

        def draw(attempt: int) -> Item:
            entry = dataset[index * 1000 + attempt]
            text = " ".join(entry["answer"]) if self.spaced else entry["answer"]
            return Item(
                key=f"{self.name}/{self.key(entry)}",
                messages=question(self.prompt(entry)),
                gold=answer(text),
                meta={"entry": entry},
            )

        return first_of_split(split, draw)

    def score(self, item: Item, completion: str) -> float:
        """reasoning-gym's own score."""
        text = response_text(completion)
        text = text.replace(" ", "") if self.spaced else text
        entry = item.meta["entry"]
        return float(_dataset(self.task, self.config, 0).score_answer(text, entry))


@cache
def _dataset(task: str, config: tuple[tuple[str, Any], ...], seed: int) -> Any:
    """reasoning-gym's data set object (importing it takes seconds, so it is done here)."""
    from reasoning_gym import create_dataset

    return create_dataset(task, seed=seed * 1_000_003, size=2**31, **dict(config))
