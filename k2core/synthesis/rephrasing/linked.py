"""Pairs of linked documents: the second one's title occurs in the first one's text.

Shapes: N titles, R rows of a block, D titled ones of them, S titles asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from k2core.corpus.blocks import Block, Blocks
from k2core.storage.digest import digest_64
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import LONGEST
from k2core.synthesis.questions.grammar import title_of

COLUMNS = ("id", "text", "license", "attribution")
"""What a job knows of the second document, beside `titles`: the titles of both."""
MOST_CHARACTERS = LONGEST // 2 - 1
"""Of either document: both are judged as one text, with an empty line between them."""
_WORD = re.compile(r"\w+")
_BEFORE, _AFTER = re.compile(r"(\w+) \Z"), re.compile(r" (?:of )?([^\W\d_])")
_LONGEST_WORD = 30
_LEAST, _MOST_WORDS = 4, 6
"""Characters of a title that is looked for, at least, and its words at most."""

Row = dict[str, Any]


class Titles:
    """The titled documents of the split `train`: 16 bytes for each, a title's hash and the number of its row.

    Of documents with one title the first one counts. A hash has 64 bits: two of a hundred million titles share one with
    a chance of one in some thousands.

    Args:
        blocks: the curated table's.
        least, most: characters of a document that may be the second one.
    """

    def __init__(self, blocks: list[Block], least: int, most: int) -> None:
        import numpy as np

        self._blocks = Blocks(blocks)
        hashes, rows = [], []
        for block in blocks:
            table = block.read(["text", "split", "attribution"])
            titled = [
                (digest_64(title), block.first + place)
                for place, (text, split, attribution) in enumerate(zip(*table.to_pydict().values(), strict=True))
                if split == "train" and least <= len(text) <= min(most, MOST_CHARACTERS)
                if len(title := title_of(attribution)) >= _LEAST
            ]
            hashes.append(np.array([hash_ for hash_, _ in titled], np.uint64))
            rows.append(np.array([row for _, row in titled], np.int64))
        self._hash_N, first_N = np.unique(np.concatenate(hashes), return_index=True)
        self._row_N = np.concatenate(rows)[first_N]

    def find(self, document: Row) -> int | None:
        """The row, among those of all blocks, of the document whose title is the longest in this one's text, or None.

        A title is looked for as it is written, between the ends of words; one of a single word must not be a part of a
        longer name ("White" in "Kitty White"). One that is in the document's own title is none.
        """
        import numpy as np

        text, own = document["text"], title_of(document["attribution"])
        if len(text) > MOST_CHARACTERS:
            return None
        others = (span for span in _spans(text) if span not in own)
        spans = sorted(others, key=lambda span: (-len(span), text.find(span)))
        if not spans or not len(self._hash_N):
            return None
        hash_S = np.array([digest_64(span) for span in spans], np.uint64)
        at_S = np.minimum(np.searchsorted(self._hash_N, hash_S), len(self._hash_N) - 1)
        known = np.flatnonzero(self._hash_N[at_S] == hash_S)
        return int(self._row_N[at_S[known[0]]]) if len(known) else None

    def partners(self, documents: Sequence[Row]) -> list[dict[str, str]]:
        """The second document of each, which must have one: `COLUMNS` and `titles`.

        It may be in any block: each block that has some of them is read once for each column.
        """
        import numpy as np

        found = [self.find(document) for document in documents]
        if None in found:
            raise ValueError("a document without a linked one")
        row_D = np.array(found, np.int64)
        columns = [self._blocks.values(row_D, name) for name in COLUMNS]
        linked = [dict(zip(COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]
        return [
            {**other, "titles": f"{title_of(own['attribution'])} {title_of(other['attribution'])}"}
            for own, other in zip(documents, linked, strict=True)
        ]


def _spans(text: str) -> set[str]:
    """What could be a title: up to six words that begin with a capital or a digit, as they are written."""
    words = [match.span() for match in _WORD.finditer(text)]
    spans = set()
    for place, (start, first_end) in enumerate(words):
        if text[start].isupper() or text[start].isdigit():
            ends = [end for _, end in words[place : place + _MOST_WORDS]]
            spans |= {text[start:end] for end in ends if end > first_end or _alone(text, start, end)}
    return {span for span in spans if len(span) >= _LEAST and "\n" not in span}


def _alone(text: str, start: int, end: int) -> bool:
    """Whether a word is no part of a longer name, such as `Kitty White` or `Battle of Hastings`."""
    before, after = _BEFORE.search(text, max(0, start - _LONGEST_WORD), start), _AFTER.match(text, end)
    led = before and before[1][0].isupper() and before[1].lower() not in facts.FUNCTION_WORDS
    return not (led or (after and after[1].isupper()))
