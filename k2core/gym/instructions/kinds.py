"""The kinds of instructions, nearly all of IFEval's (arXiv 2311.07911): how each is drawn, said, checked and met.

A reply is a text about a topic or, for the smallest models, a few words. A kind of `SHAPES` says what the reply is
made of, and a reply has one; the kinds of `FORMS` change how it looks, in this order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from k2core.storage import parse_json

WORDS = (
    "lamp", "stone", "cloud", "clock", "letter", "window", "silver", "winter", "horse", "bread", "apple", "table",
    "paper", "water", "green", "night", "music", "chair", "mouse", "tower", "sugar", "wheel", "train", "field",
)  # fmt: skip
COMMON = ("the", "old", "people", "every", "many")
"""Words that a text would have if it were not told otherwise."""
LANGUAGES = {
    "es": ("Spanish", "Este lugar se llama {0}. Mucha gente viene aquí todos los días. Por la noche hay silencio."),
    "fr": ("French", "Cet endroit s'appelle {0}. Beaucoup de gens y viennent tous les jours. Le soir, tout est calme."),
    "de": ("German", "Dieser Ort heißt {0}. Viele Leute kommen jeden Tag hierher. Am Abend ist alles ganz ruhig."),
}  # fmt: skip
TONES = {
    "a complaint": "I am angry about the {0}. Nobody takes care of this {0}. The {0} was dirty again, and too loud. "
    "We paid for the {0} and got nothing. Never again will I come to the {0}. Give me my money for the {0} back.",
    "a warning": "Stay away from the {0}. At night the {0} is not safe. Two people fell at the {0}, and one died. "
    "Keep your children off the {0}. Nobody helps you at the {0}. Do not walk near the {0} alone.",
    "praise": "The {0} is wonderful. I love every corner of the {0}. Nothing is as lovely as the {0}, and so kind. "
    "A day at the {0} makes me happy. Thank you for this {0}. My heart belongs to the {0}.",
}  # fmt: skip
"""A text of each tone."""
MARK = "******"
_WITH_LETTER = {
    "j": ("Just look.", "They enjoy it.", "It is a joy."), "q": ("It is quite so.", "Ask a question.", "Be quick."),
    "x": ("It is exact.", "Take six.", "Look next to it."), "z": ("It has a size.", "It is a maze.", "See a wizard."),
}  # fmt: skip
_NUMBERED = ("first", "second", "third")


@dataclass(frozen=True)
class Kind:
    """An instruction; `draw` gives its argument.

    Attributes:
        met: whether a text meets it.
        write: a text that meets it, made of another.
        few: a reply of a few words can meet it.
    """

    draw: Callable[[Random], Any]
    says: Callable[[Any], str]
    met: Callable[[Any, str], bool]
    write: Callable[[Any, str], str]
    few: bool = False


def sentences(text: str) -> list[str]:
    """Its sentences, without their ends."""
    return [part.strip() for part in re.split(r"[.!?]+(?=\s|$)", text) if re.search(r"\w", part)]


def words(text: str) -> list[str]:
    """Its words in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def _parts(text: str) -> list[str]:
    """Sentences with an end, or single words where there is none."""
    return [f"{part}." for part in sentences(text)] if "." in text else text.split()


def _bullets(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("* ")]


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _keys(text: str) -> set[str]:
    try:
        found = parse_json(text)
    except ValueError:
        return set()
    return set(found) if isinstance(found, dict) else set()


def _sections(text: str) -> list[str]:
    """What the sections' first lines say, if each has something below it."""
    parts = re.split(r"^SECTION (\d+)$", text, flags=re.MULTILINE)
    return parts[1::2] if all(map(str.strip, parts[2::2])) and not parts[0].strip() else []


def _replies(text: str) -> bool:
    parts = [part.strip() for part in text.split(MARK)]
    return len(parts) == 2 and all(parts) and words(parts[0]) != words(parts[1])


def _language(text: str) -> str:
    from k2core.corpus.signals.language import detect

    return detect(text, 500)[0]


def _with(word: str, count: int, text: str) -> str:
    """`text` with the word so many times."""
    if "." in text:
        more = (f"They saw the {word}.", f"There was no {word}.", f"Nobody has my {word}.")
        return " ".join([text, *more[:count]])
    return " ".join(f"{word} {other}" for other in [*text.split()[: count - 1], ""]).strip()


def _in_language(code: str, text: str) -> str:
    return LANGUAGES[code][1].format(f'"{_topic(text)}"')


def _topic(text: str) -> str:
    """The two words that all sentences of a text have."""
    shared = set.intersection(*({*zip(words(part), words(part)[1:], strict=False)} for part in sentences(text)))
    return " ".join(sorted(shared)[0]) if shared else ""


def _many(count: int, of: str) -> str:
    return f"{count} {of}{'s' if count > 1 else ''}"


def _count(low: int, high: int) -> Callable[[Random], int]:
    return lambda random: random.randint(low, high)


def _pair(random: Random) -> list[str]:
    return sorted(random.sample(WORDS, 2))


def _none(random: Random) -> None:
    return None


SHAPES = {
    "words": Kind(
        _count(2, 6), lambda n: f"Write exactly {n} words.", lambda n, text: len(words(text)) == n,
        lambda n, text: " ".join(text.replace(".", "").split()[:n]), few=True,
    ),
    "length": Kind(
        _count(20, 40), lambda n: f"Write at least {n} words.", lambda n, text: len(words(text)) >= n,
        lambda n, text: text,
    ),
    "at_most": Kind(
        _count(10, 30), lambda n: f"Write at most {n} words.", lambda n, text: 0 < len(words(text)) <= n,
        lambda n, text: f"{sentences(text)[0]}.",
    ),
    "sentences": Kind(
        _count(2, 5), lambda n: f"Write exactly {n} sentences.", lambda n, text: len(sentences(text)) == n,
        lambda n, text: " ".join(_parts(text)[:n]),
    ),
    "bullets": Kind(
        _count(2, 5), lambda n: f"Write a list of exactly {n} points, each on a line that begins with `* `.",
        lambda n, text: len(_bullets(text)) == n, lambda n, text: "\n".join(f"* {part}" for part in _parts(text)[:n]),
        few=True,
    ),
    "paragraphs": Kind(
        _count(2, 4), lambda n: f"Write exactly {n} paragraphs with an empty line between them.",
        lambda n, text: len(_paragraphs(text)) == n, lambda n, text: "\n\n".join(_parts(text)[:n]),
    ),
    "paragraph_begins": Kind(
        lambda random: [random.randrange(3), random.choice(WORDS).capitalize()],
        lambda given: f"Write 3 paragraphs with an empty line between them, and begin the {_NUMBERED[given[0]]} with "
        f"the word {given[1]}.",
        lambda given, text: len(_paragraphs(text)) == 3
        and re.match(rf"{given[1]}\b", _paragraphs(text)[given[0]]) is not None,
        lambda given, text: "\n\n".join(
            f"{given[1]}: {part}" if number == given[0] else part for number, part in enumerate(_parts(text)[:3])
        ),
    ),
    "sections": Kind(
        _count(2, 3), lambda n: f"Write exactly {n} sections, below the lines SECTION 1 to SECTION {n}.",
        lambda n, text: _sections(text) == [str(number + 1) for number in range(n)],
        lambda n, text: "\n".join(f"SECTION {number + 1}\n{part}" for number, part in enumerate(_parts(text)[:n])),
    ),
    "replies": Kind(
        _none, lambda _: f"Write two different replies, with {MARK} between them.", lambda _, text: _replies(text),
        lambda _, text: f"\n{MARK}\n".join(_parts(text)[:2]),
    ),
    "keywords": Kind(
        _pair, lambda pair: f"Use the words {pair[0]} and {pair[1]}.", lambda pair, text: set(pair) <= set(words(text)),
        lambda pair, text: f"{text} The {pair[0]} is beside the {pair[1]}." if "." in text else
        f"{text.split()[0]} {' '.join(pair)}", few=True,
    ),
    "repeat": Kind(
        lambda random: [random.choice(WORDS), random.randint(2, 3)],
        lambda given: f"Use the word {given[0]} exactly {given[1]} times.",
        lambda given, text: words(text).count(given[0]) == given[1],
        lambda given, text: _with(given[0], given[1], text), few=True,
    ),
    "json": Kind(
        _pair, lambda pair: f"Write one JSON object with the keys {pair[0]} and {pair[1]}, and nothing else.",
        lambda pair, text: _keys(text) == set(pair),
        lambda pair, text: json.dumps(dict(zip(pair, _parts(text), strict=False))), few=True,
    ),
    "language": Kind(
        lambda random: random.choice(sorted(LANGUAGES)), lambda code: f"Write in {LANGUAGES[code][0]}.",
        lambda code, text: _language(text) == code, _in_language,
    ),
}  # fmt: skip
FORMS = {
    "without": Kind(
        lambda random: random.choice(COMMON), lambda word: f"Do not use the word {word}.",
        lambda word, text: word not in words(text),
        lambda word, text: re.sub(rf"\b{word}\b", "such", text, flags=re.IGNORECASE),
    ),
    "letter": Kind(
        lambda random: [random.choice("jqxz"), random.randint(1, 3)],
        lambda given: f"Use the letter {given[0]} at least {_many(given[1], 'time')}.",
        lambda given, text: text.lower().count(given[0]) >= given[1],
        lambda given, text: " ".join([text, *_WITH_LETTER[given[0]][: given[1]]]),
    ),
    "shouts": Kind(
        _count(1, 3), lambda n: f"Write at least {_many(n, 'word')} in capital letters only.",
        lambda n, text: len(re.findall(r"\b[A-Z]{2,}\b", text)) >= n,
        lambda n, text: re.sub(r"\b[A-Za-z]{2,}\b", lambda found: found[0].upper(), text, count=n),
    ),
    "highlights": Kind(
        _count(1, 2), lambda n: f"Highlight at least {_many(n, 'part')}, as in *this part*.",
        lambda n, text: len(set(re.findall(r"\*[^\s*][^*\n]*\*", text))) >= n,
        lambda n, text: re.sub(r"(?<![*<\w])\b\w+\b(?![\w*>])", lambda found: f"*{found[0]}*", text, count=n), few=True,
    ),
    "placeholders": Kind(
        _count(1, 2), lambda n: f"Leave at least {_many(n, 'placeholder')} in square brackets, such as [name].",
        lambda n, text: len(set(re.findall(r"\[[a-z]+\]", text))) >= n,
        lambda n, text: " ".join([text, "Ask [person].", "Come on [date]."][: n + 1]),
    ),
    "lower": Kind(
        _none, lambda _: "Use no capital letters.", lambda _, text: text == text.lower(), lambda _, text: text.lower(),
        few=True,
    ),
    "upper": Kind(
        _none, lambda _: "Use capital letters only.", lambda _, text: text == text.upper(),
        lambda _, text: text.upper(), few=True,
    ),
    "commas": Kind(
        _none, lambda _: "Use no commas.", lambda _, text: "," not in text, lambda _, text: text.replace(",", ""),
    ),
    "title": Kind(
        _none, lambda _: "Give it a title between double angle brackets, as in <<title>>.",
        lambda _, text: re.search(r"<<[^\n<>]+>>", text) is not None, lambda _, text: f"<<A few words>>\n{text}",
    ),
    "begins": Kind(
        lambda random: random.choice(WORDS).capitalize(), lambda word: f"Begin with the word {word}.",
        lambda word, text: re.match(rf"{word}\b", text) is not None,
        lambda word, text: f"{word}: {text}" if "." in text else f"{word} {text}", few=True,
    ),
    "ends": Kind(
        lambda random: f"That is all about the {random.choice(WORDS)}.", lambda end: f"End with these words: {end}",
        lambda end, text: text.endswith(end), lambda end, text: f"{text} {end}",
    ),
    "postscript": Kind(
        _none, lambda _: "Add a postscript that begins with P.S.",
        lambda _, text: re.search(r"^P\.S\. *\w", text, re.MULTILINE) is not None,
        lambda _, text: f"{text}\n\nP.S. There is more to say.",
    ),
    "quoted": Kind(
        _none, lambda _: "Put the whole reply between double quotation marks.",
        lambda _, text: len(text) > 2 and text[0] == text[-1] == '"', lambda _, text: f'"{text}"', few=True,
    ),
}  # fmt: skip
ABOUT = Kind(
    _none, lambda topic: f'Write about a {topic}, with the words "{topic}".',
    lambda topic, text: topic in text.lower(), lambda topic, text: text,
)  # fmt: skip
TONE = Kind(
    lambda random: random.choice(sorted(TONES)), lambda tone: f"Write it as {tone}.", lambda tone, text: True,
    lambda tone, text: TONES[tone].format(_topic(text)),
)  # fmt: skip
"""Code cannot decide it: an LLM does."""
KINDS = {"about": ABOUT, "tone": TONE} | SHAPES | FORMS
