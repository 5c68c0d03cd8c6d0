"""The shipped prose multiplied to any number of documents, in which exact, near and no duplicates are known.

A new document is a text of the sources in which two words of five are others: it shares a tenth of its 5-grams with
that text and hardly any with another document made of it. A near duplicate is an earlier new document with one word in
a hundred changed (Jaccard similarity 0.9), an exact one differs in white space. A document depends on its number alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from k2core.corpus.documents import document_schema
from k2core.storage import fraction_of, write_table

Kind = Literal["new", "near", "exact"]
SHARES: dict[Kind, float] = {"exact": 0.05, "near": 0.10}
"""Of the documents; the rest is new."""
CHANGED, WORDS_AN_EDIT, FEWEST_WORDS = 0.4, 100, 80
SOURCE = "multiplied"


class Multiplied:
    """Documents 0, 1, 2, … made of `rows` (`text`, `domain`); those of few words are left out."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = [row for row in rows if len(row["text"].split()) >= FEWEST_WORDS]

    @cached_property
    def _words(self) -> list[str]:
        return sorted({word for row in self._rows for word in re.findall(r"\b[a-z]{4,9}\b", row["text"])})

    def kind(self, number: int) -> Kind:
        drawn, end = fraction_of(f"kind/{number}"), 0.0
        for kind, share in SHARES.items():
            end += share
            if number and drawn < end:
                return kind
        return "new"

    def root(self, number: int) -> int:
        """The new document that it is a duplicate of; a new document's own number."""
        while self.kind(number) != "new":
            number = int(fraction_of(f"root/{number}") * number)
        return number

    def text(self, number: int) -> str:
        kind, root = self.kind(number), self.root(number)
        text = self._edited(str(self._row(root)["text"]), CHANGED, f"new/{root}")
        if kind == "near":
            return self._edited(text, 1 / WORDS_AN_EDIT, f"near/{number}")
        return f"{text.replace(' ', '  ', 1)}\n" if kind == "exact" else text

    def document(self, number: int) -> dict[str, Any]:
        """The row of a documents' table."""
        said = dict.fromkeys(("license", "origin", "attribution"), "made")
        domain = self._row(self.root(number))["domain"]
        return {
            **said, "id": f"{SOURCE}/{number}", "text": self.text(number), "domain": domain, "source": SOURCE,
            "language": "en",
        }  # fmt: skip

    def write(self, count: int, shard: int, documents: Path, quality: Path) -> None:
        """Write the tables of `count` documents, `shard` in each, and beside them a quality drawn by hash."""
        import pyarrow as pa

        scores = pa.schema([("id", pa.string()), ("quality", pa.float64())])
        for place, start in enumerate(range(0, count, shard)):
            rows = [self.document(number) for number in range(start, min(start + shard, count))]
            name = f"{SOURCE}-{place:05}.parquet"
            write_table(documents / name, rows, document_schema())
            graded = [{"id": row["id"], "quality": fraction_of(f"quality/{row['id']}")} for row in rows]
            write_table(quality / name, graded, scores)

    def _row(self, root: int) -> dict[str, Any]:
        return self._rows[int(fraction_of(f"base/{root}") * len(self._rows))]

    def _edited(self, text: str, share: float, seed: str) -> str:
        """`text` with that share of its words replaced, one at least, evenly apart."""
        rng = random.Random(seed)
        parts = re.split(r"(\s+)", text.strip())
        count = (len(parts) + 1) // 2
        edits = max(1, int(count * share))
        for edit in range(edits):
            place = (2 * edit + 1) * count // (2 * edits)
            parts[2 * place] = self._words[rng.randrange(len(self._words))]
        return "".join(parts)


def found(sources: Iterator[tuple[int, int]], candidates: set[int], corpus: Multiplied) -> tuple[float, float, int]:
    """Recall, precision and the number of documents that should go.

    Of each root's documents among `candidates` (numbers) all but one should go, whichever stays.

    Args:
        sources: number of a document that went, and of the one that it repeats.
    """
    members: dict[int, int] = {}
    for number in candidates:
        root = corpus.root(number)
        members[root] = members.get(root, 0) + 1
    due = sum(members.values()) - len(members)
    gone = right = 0
    for number, of in sources:
        gone += 1
        right += corpus.root(number) == corpus.root(of)
    return right / due if due else 1.0, right / gone if gone else 1.0, due
