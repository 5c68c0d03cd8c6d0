"""Open values: names, words, numbers and codes that no list holds, so that a model can only copy them.

Half of the names and words come from a text, half are made up of syllables. A model that guesses from its
training data is nearly always wrong, which is the point: a closed list of 14 names is learnt by heart, and copying is
not learnt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from random import Random

_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,11}\b")
_WORD = re.compile(r"\b[a-z]{4,11}\b")
_ONSETS = [
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "qu", "r",
    "s", "sh", "st", "t", "tr", "v", "w", "y", "z",
]  # fmt: skip
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ia", "oo"]
_CODAS = ["", "", "", "l", "n", "r", "s", "th", "nd", "rk", "x", "m"]
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


class Values:
    """Draws values; `texts` lend it words. A draw depends on the texts and on `random` alone."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        names: set[str] = set()
        words: set[str] = set()
        for text in texts:
            names.update(_NAME.findall(text))
            words.update(_WORD.findall(text))
        self._names, self._words = sorted(names), sorted(words)

    def made_up(self, random: Random) -> str:
        """A word of one to three syllables that sounds like one, in lower case."""
        syllable = (random.choice(_ONSETS) + random.choice(_VOWELS) for _ in range(random.randint(1, 3)))
        return "".join(syllable) + random.choice(_CODAS)

    def word(self, random: Random) -> str:
        return random.choice(self._words) if self._words and random.random() < 0.5 else self.made_up(random)

    def name(self, random: Random) -> str:
        if self._names and random.random() < 0.5:
            return random.choice(self._names)
        return self.made_up(random).capitalize()

    def person(self, random: Random) -> str:
        return f"{self.name(random)} {self.name(random)}"

    def phrase(self, random: Random) -> str:
        """Two words in lower case."""
        return f"{self.word(random)} {self.word(random)}"

    def text(self, random: Random) -> str:
        """Three to five words in lower case."""
        return " ".join(self.word(random) for _ in range(random.randint(3, 5)))

    def number(self, random: Random) -> str:
        """An integer of one to four digits."""
        return str(random.randrange(10 ** random.randint(1, 4)))

    def code(self, random: Random) -> str:
        """Such as `K-4071` or `RD-93`."""
        letters = "".join(random.choice(_LETTERS) for _ in range(random.randint(1, 2)))
        return f"{letters}-{random.randrange(10, 10 ** random.randint(2, 4))}"

    def digits(self, random: Random) -> str:
        """Six to eight digits, which may begin with 0."""
        return "".join(random.choice("0123456789") for _ in range(random.randint(6, 8)))

    def time(self, random: Random) -> str:
        return f"{random.randrange(24):02}:{random.randrange(60):02}"

    def date(self, random: Random) -> str:
        return f"{random.randint(1950, 2060)}-{random.randint(1, 12):02}-{random.randint(1, 28):02}"

    @property
    def kinds(self) -> tuple[Callable[[Random], str], ...]:
        """All draws that make a value of a record."""
        return (
            self.word, self.name, self.person, self.phrase, self.number, self.code, self.digits, self.time, self.date,
        )  # fmt: skip
