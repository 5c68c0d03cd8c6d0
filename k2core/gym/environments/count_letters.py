"""Count how often a letter occurs in a short row of letters. The key is the multiset of letters and the target."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from k2core.gym.base import UNLIMITED, Item, Split, answer, generated, question, response_text


@dataclass(frozen=True)
class CountLetters:
    """`Count b: a b b c` → `2`; reward 1 for exactly that number, else 0."""

    name: str = "count_letters"
    max_new_tokens: int = 8
    lengths: tuple[int, ...] = (4, 5, 6)
    letters: str = "abcdefgh"

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """The number of occurrences is drawn first, so that every answer from 0 on is equally frequent."""

        def draw(random: Random) -> Item:
            length, target = random.choice(self.lengths), random.choice(self.letters)
            count = random.randrange(length)
            others = self.letters.replace(target, "")
            row = [target] * count + [random.choice(others) for _ in range(length - count)]
            random.shuffle(row)
            return Item(
                key=f"{self.name}/{target}/" + "".join(sorted(row)),
                messages=question(f"Count {target}: " + " ".join(row)),
                gold=answer(str(count)),
            )

        return generated(f"{seed}/{self.name}/{split}/{index}", split, draw)

    def score(self, item: Item, completion: str) -> float:
        """The number alone."""
        return float(response_text(completion) == item.gold["content"])


make = CountLetters
