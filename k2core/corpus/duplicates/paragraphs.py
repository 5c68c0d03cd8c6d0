"""Paragraphs that occur in several documents: cut out of all but the best one.

Blank lines separate paragraphs, and white space does not tell two apart. Only paragraphs above a length count, so
headings and short phrases remain. A document that would lose too much of its text is rejected as a whole, and its
paragraphs stay in the others. `repeated` finds them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from k2core.corpus.documents import Domain
from k2core.recipe import Section

_BLANK_LINES = re.compile(r"(\n\s*\n)")


class ParagraphConfig(Section):
    """Which repeated paragraphs are cut out."""

    domains: list[Domain] = Field(
        description="domains whose paragraphs are compared (cut code would not parse, problems share wording)"
    )
    min_characters: int = Field(ge=1, description="least characters of a paragraph that counts, white space collapsed")
    max_share: float = Field(
        ge=0, lt=1, description="share of characters in repeated paragraphs above which the whole document goes"
    )


@dataclass(frozen=True)
class Repeats:
    """What a document repeats of better ones: its `share` of the characters, and the first paragraph.

    `text` is what is left without them.
    """

    text: str
    share: float
    first: str


def without(text: str, places: Sequence[int]) -> Repeats:
    """`text` without its repeated paragraphs, the ones at `places` (rising, from 0)."""
    parts = _BLANK_LINES.split(text)
    paragraphs, gaps = parts[::2], [*parts[1::2], ""]
    gone = set(places)
    pairs = enumerate(zip(paragraphs, gaps, strict=True))
    rest = "".join(paragraph + gap for place, (paragraph, gap) in pairs if place not in gone)
    lost = sum(len(paragraphs[place]) for place in places)
    return Repeats(rest.strip(), round(lost / len(text), 4), paragraphs[places[0]])


def counted(document: int, text: str, min_characters: int) -> Iterator[tuple[int, ...]]:
    """The paragraphs of a text that are long enough to count, as rows of `PARAGRAPH` in `repeated`."""
    paragraphs = _BLANK_LINES.split(text)[::2]
    plain = [" ".join(paragraph.split()) for paragraph in paragraphs]
    visible = sum(map(bool, plain))
    for place, words in enumerate(plain):
        if len(words) >= min_characters:
            key = hashlib.sha256(words.encode()).digest()
            high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:16], "big")
            yield high, low, document, place, len(paragraphs[place]), len(text), visible
