"""Paragraphs that occur in several documents: cut out of all but the best one.

Blank lines separate paragraphs, and white space does not tell two apart. Only paragraphs above a length count, so
headings and short phrases remain. A document that would lose too much of its text is rejected as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
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
    """What a document repeats of better ones: its `share` of the characters, the first paragraph and whose it is.

    `text` is what is left without them; `goes` if that is too little.
    """

    text: str
    share: float
    goes: bool
    first: str
    of: str


def find_repeats(ranked: Iterable[tuple[str, str]], config: ParagraphConfig) -> dict[str, Repeats]:
    """`id` → repeats for those of the documents (`id`, text) that repeat a paragraph of an earlier one or their own.

    Args:
        ranked: the better of two documents comes first. Paragraphs of a document that `goes` stay in the others.
    """
    owner: dict[bytes, str] = {}
    repeats = {}
    for name, text in ranked:
        parts = _BLANK_LINES.split(text)
        new: dict[bytes, str] = {}
        kept, lost, first = [], 0, ("", "")
        for paragraph, gap in zip(parts[::2], [*parts[1::2], ""], strict=True):
            key = _key(paragraph, config.min_characters)
            whose = owner.get(key) or new.get(key) if key else None
            if whose is None:
                kept.append(paragraph + gap)
                if key:
                    new[key] = name
            else:
                lost += len(paragraph)
                first = first if first[1] else (paragraph, whose)
        goes = False
        if lost:
            rest, share = "".join(kept).strip(), lost / len(text)
            goes = share > config.max_share or not rest
            repeats[name] = Repeats(rest, round(share, 4), goes, *first)
        if not goes:
            owner |= new
    return repeats


def _key(paragraph: str, min_characters: int) -> bytes | None:
    plain = " ".join(paragraph.split())
    return hashlib.sha256(plain.encode()).digest()[:16] if len(plain) >= min_characters else None
