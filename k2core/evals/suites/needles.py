"""A number that one sentence of a long text gives, by length and depth: reading back from far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

from k2core.evals.final_answer import final
from k2core.gym.base import UNLIMITED, Item, Split, answer, generated, question, response_text

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
THINGS = ("house", "river", "garden", "tower", "bridge", "market", "harbour", "field")
LENGTHS = (8, 32)
"""Sentences of the text."""
DEPTHS = 4
"""A needle lies in each quarter of the text in turn."""
MOST_WORDS = 20
"""Of a reply; the text has more."""


@dataclass(frozen=True)
class Needles:
    """`What is the number of the blue tower?` after a text that says so once; 1 for the number and no other."""

    name: str = "needles"
    max_new_tokens: int = 24

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Length and depth follow from `index`, so that all occur."""
        length, depth = LENGTHS[index % len(LENGTHS)], index // len(LENGTHS) % DEPTHS

        def draw(random: Random) -> Item:
            wanted = f"{random.choice(COLOURS)} {random.choice(THINGS)}"
            number = str(random.randrange(1000, 10000))
            lines = [f"The {random.choice(THINGS)} is {random.choice(COLOURS)}." for _ in range(length)]
            lines.insert(int(length * (depth + random.random()) / DEPTHS), f"The number of the {wanted} is {number}.")
            text = " ".join(lines)
            asked = question(f"{text} What is the number of the {wanted}?")
            return Item(
                f"{self.name}/{wanted}/{number}", asked, answer(number),
                meta={"length": length, "depth": depth},
            )  # fmt: skip

        return generated(f"{seed}/{self.name}/{split}/{index}", split, draw)

    def score(self, item: Item, completion: str) -> float:
        """Whether the reply gives the number and no other, and is no copy of the text."""
        said = final(response_text(completion))
        digits = "".join(c if c.isdigit() else " " for c in said).split()
        return float(set(digits) == {item.gold["content"]} and len(said.split()) <= MOST_WORDS)


def make(data: Path | None) -> Needles:
    """The environment."""
    return Needles()
