"""Sort a few digits in ascending order. The key is the set of numbers, so no held-out set is ever trained on
in another order."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from k2core.gym.base import UNLIMITED, Item, Split, answer, generated, question, response_text


@dataclass(frozen=True)
class SortNumbers:
    """`Sort: 4 7 1` → `1 4 7`; reward 1 for exactly that, else 0."""

    name: str = "sort_numbers"
    max_new_tokens: int = 24
    lengths: tuple[int, ...] = (3, 4, 5, 6)
    largest: int = 9

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Distinct numbers from 0 to `largest`."""

        def draw(random: Random) -> Item:
            numbers = random.sample(range(self.largest + 1), random.choice(self.lengths))
            in_order = " ".join(map(str, sorted(numbers)))
            return Item(
                key=f"{self.name}/{in_order}",
                messages=question("Sort: " + " ".join(map(str, numbers))),
                gold=answer(in_order),
            )

        return generated(f"{seed}/{self.name}/{split}/{index}", split, draw)

    def score(self, item: Item, completion: str) -> float:
        """Whitespace is free, all else must match."""
        return float(response_text(completion).split() == item.gold["content"].split())


make = SortNumbers
