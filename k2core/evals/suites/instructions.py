"""Instructions that code can check, one to three in a prompt, as IFEval has them (arXiv 2311.07911).

A reply passes if it meets all of them, which is IFEval's strict accuracy of prompts. It must also name its topic, and
hold none of the prompt's own sentences (K2 §3.2.1 looks for such tricks too): what is constant, empty or copied fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from k2core.gym.base import UNLIMITED, Item, Split, answer, generated, question, response_text
from k2core.storage import parse_json

Check = tuple[str, Any]
"""An instruction's kind and its argument."""
LOOKS = ("small", "famous", "wooden", "hidden", "lively", "foreign", "modern", "sleepy", "royal", "windy")
PLACES = ("river", "garden", "market", "library", "harbour", "bridge", "forest", "school", "castle", "island")
WORDS = ("lamp", "stone", "cloud", "clock", "letter", "window", "silver", "winter", "horse", "bread")
COMMON = ("the", "old", "people", "every", "many")
"""Words that a reply would have if it were not told otherwise."""
SENTENCES = (
    "The {0} is old, and people like it.", "Many come to the {0} every day.", "A {0} needs care.",
    "Nobody knows who made this {0}.", "In the evening, the {0} is quiet.", "Every {0} has its own story.",
)  # fmt: skip
FORMS_AT_MOST = 2


@dataclass(frozen=True)
class Kind:
    """How an instruction is drawn and said, whether a text meets it, and how a text is made to meet it."""

    draw: Callable[[Random], Any]
    says: Callable[[Any], str]
    met: Callable[[Any, str], bool]
    write: Callable[[Any, str], str]


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"[.!?]+(?=\s|$)", text) if re.search(r"\w", part)]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _bullets(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("* ")]


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def _keys(text: str) -> set[str]:
    try:
        found = parse_json(text)
    except ValueError:
        return set()
    return set(found) if isinstance(found, dict) else set()


def _count(low: int, high: int) -> Callable[[Random], int]:
    return lambda random: random.randint(low, high)


def _pair(random: Random) -> list[str]:
    return sorted(random.sample(WORDS, 2))


CONTENT = {
    "sentences": Kind(
        _count(2, 5), lambda n: f"Write exactly {n} sentences.", lambda n, text: len(_sentences(text)) == n,
        lambda n, text: " ".join(f"{part}." for part in _sentences(text)[:n]),
    ),
    "length": Kind(
        _count(20, 40), lambda n: f"Write at least {n} words.", lambda n, text: len(_words(text)) >= n,
        lambda n, text: f"{text} {text}",
    ),
    "bullets": Kind(
        _count(2, 5), lambda n: f"Write a list of exactly {n} points, each on a line that begins with `* `.",
        lambda n, text: len(_bullets(text)) == n,
        lambda n, text: "\n".join(f"* {part}." for part in _sentences(text)[:n]),
    ),
    "paragraphs": Kind(
        _count(2, 4), lambda n: f"Write exactly {n} paragraphs with an empty line between them.",
        lambda n, text: len(_paragraphs(text)) == n,
        lambda n, text: "\n\n".join(f"{part}." for part in _sentences(text)[:n]),
    ),
    "keywords": Kind(
        _pair, lambda pair: f"Use the words {pair[0]} and {pair[1]}.",
        lambda pair, text: set(pair) <= set(_words(text)),
        lambda pair, text: f"{text} There is a {pair[0]} beside the {pair[1]}.",
    ),
    "json": Kind(
        _pair, lambda pair: f"Write one JSON object with the keys {pair[0]} and {pair[1]}, and nothing else.",
        lambda pair, text: _keys(text) == set(pair),
        lambda pair, text: json.dumps(dict(zip(pair, _sentences(text), strict=False))),
    ),
}  # fmt: skip
FORM = {
    "without": Kind(
        lambda random: random.choice(COMMON), lambda word: f"Do not use the word {word}.",
        lambda word, text: word not in _words(text),
        lambda word, text: re.sub(rf"\b{word}\b", "such", text, flags=re.IGNORECASE),
    ),
    "lower": Kind(
        lambda random: None, lambda _: "Use no capital letters.", lambda _, text: text == text.lower(),
        lambda _, text: text.lower(),
    ),
    "upper": Kind(
        lambda random: None, lambda _: "Use capital letters only.", lambda _, text: text == text.upper(),
        lambda _, text: text.upper(),
    ),
    "commas": Kind(
        lambda random: None, lambda _: "Use no commas.", lambda _, text: "," not in text,
        lambda _, text: text.replace(",", ""),
    ),
    "title": Kind(
        lambda random: None, lambda _: "Give it a title between double angle brackets, as in <<title>>.",
        lambda _, text: re.search(r"<<[^\n<>]+>>", text) is not None, lambda _, text: f"<<A few words>>\n{text}",
    ),
    "begins": Kind(
        lambda random: random.choice(WORDS).capitalize(), lambda word: f"Begin with the word {word}.",
        lambda word, text: re.match(rf"{word}\b", text) is not None, lambda word, text: f"{word}: {text}",
    ),
    "ends": Kind(
        lambda random: f"That is all about the {random.choice(WORDS)}.", lambda end: f"End with these words: {end}",
        lambda end, text: text.endswith(end), lambda end, text: f"{text} {end}",
    ),
    "postscript": Kind(
        lambda random: None, lambda _: "Add a postscript that begins with P.S.",
        lambda _, text: re.search(r"^P\.S\. *\w", text, re.MULTILINE) is not None,
        lambda _, text: f"{text}\n\nP.S. There is more to say.",
    ),
    "quoted": Kind(
        lambda random: None, lambda _: "Put the whole reply between double quotation marks.",
        lambda _, text: len(text) > 1 and text[0] == text[-1] == '"', lambda _, text: f'"{text}"',
    ),
}  # fmt: skip
ABOUT = Kind(
    lambda random: f"{random.choice(LOOKS)} {random.choice(PLACES)}",
    lambda topic: f'Write about a {topic}, with the words "{topic}".',
    lambda topic, text: topic in text.lower(), lambda topic, text: text,
)  # fmt: skip
KINDS = {"about": ABOUT} | CONTENT | FORM


def says(checks: Sequence[Check]) -> list[str]:
    """The instructions, a sentence each."""
    return [KINDS[name].says(argument) for name, argument in checks]


def met(checks: Sequence[Check], text: str) -> bool:
    """Whether `text` meets all instructions and repeats none."""
    copied = any(said.lower() in text.lower() for said in says(checks))
    return not copied and all(KINDS[name].met(argument, text) for name, argument in checks)


@dataclass(frozen=True)
class Instructions:
    """Prompts of a topic, what the reply holds, and up to two rules on its form."""

    name: str = "instructions"
    max_new_tokens: int = 192

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Instructions that can be met together: a reply that meets them was written."""
        return generated(f"{seed}/{self.name}/{split}/{index}", split, _drawn)

    def score(self, item: Item, completion: str) -> float:
        """1 if the reply meets all instructions, else 0."""
        return float(met(item.meta["checks"], response_text(completion)))


def _drawn(random: Random) -> Item:
    while True:
        forms = set(random.sample(sorted(FORM), random.randint(0, FORMS_AT_MOST)))
        names = ["about", random.choice(sorted(CONTENT)), *(name for name in FORM if name in forms)]
        checks = [(name, KINDS[name].draw(random)) for name in names]
        text = " ".join(random.sample(SENTENCES, len(SENTENCES))).format(checks[0][1])
        for name, argument in checks:
            text = KINDS[name].write(argument, text)
        if met(checks, text):
            asked = " ".join(says(checks))
            return Item(f"instructions/{asked}", question(asked), answer(text), meta={"checks": checks})


def make(data: Path | None) -> Instructions:
    """The environment."""
    return Instructions()
