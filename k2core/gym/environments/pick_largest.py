"""Name the largest of a few whole numbers. The key is the set of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from k2core.gym.base import UNLIMITED, Item, Split, answer, generated, question, response_text


@dataclass(frozen=True)
class PickLargest:
    """`Largest: 41 7 93` → `93`; reward 1 for exactly that number, else 0."""

    name: str = "pick_largest"
    max_new_tokens: int = 8
    lengths: tuple[int, ...] = (3, 4, 5)
    largest: int = 99

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Distinct numbers from 0 to `largest`."""

        def draw(random: Random) -> Item:
            numbers = random.sample(range(self.largest + 1), random.choice(self.lengths))
            return Item(
                key=f"{self.name}/" + " ".join(map(str, sorted(numbers))),
                messages=question("Largest: " + " ".join(map(str, numbers))),
                gold=answer(str(max(numbers))),
            )

        return generated(f"{seed}/{self.name}/{split}/{index}", split, draw)

    def score(self, item: Item, completion: str) -> float:
        """The number alone; a list that contains it is not an answer."""
        return float(response_text(completion) == item.gold["content"])


make = PickLargest
