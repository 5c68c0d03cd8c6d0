"""Paragraphs that occur in several documents: cut out of all but the best one.

Blank lines separate paragraphs, and white space does not tell two apart. Only paragraphs above a length count, so
headings and short phrases remain. A document that would lose too much of its text is rejected as a whole, and its
paragraphs stay in the others.

Each shard's paragraphs are spilled as numbers (`PARAGRAPH`). `find_repeats` sees all of them, a part of their keys and
then a part of the documents at a time.

Shapes: N documents, P paragraphs of a shard, Q repeated paragraphs of a part, G distinct repeated ones.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from pydantic import Field

from k2core.corpus.documents import Domain
from k2core.recipe import Section

_BLANK_LINES = re.compile(r"(\n\s*\n)")
PARTS = 32
"""Parts (a power of 2) of the keys, and of the ranking, that are in memory one at a time."""
PARAGRAPH = np.dtype(
    [
        ("high", "<u8"), ("low", "<u8"), ("document", "<i8"), ("place", "<i4"), ("characters", "<i4"),
        ("text", "<i4"), ("visible", "<i4"),
    ]
)  # fmt: skip
"""A paragraph that is long enough to count: its key in two halves, document, place and characters; and of its document
the characters and the number of paragraphs that are not blank."""
_REPEATED = np.dtype(
    [
        ("rank", "<i8"), ("place", "<i4"), ("group", "<i8"), ("characters", "<i4"), ("text", "<i4"),
        ("visible", "<i4"),
    ]
)  # fmt: skip
CUT = np.dtype([("document", "<i8"), ("place", "<i4"), ("of", "<i8"), ("goes", "?")])
"""A paragraph that repeats one of the document `of`, and whether its own document goes as a whole."""


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


def spill(folder: Path, texts: Iterable[tuple[int, str]], min_characters: int) -> None:
    """Write the paragraphs of a shard's documents (place in the shard, text) that count into `folder`, part by part."""
    rows = [row for document, text in texts for row in _paragraphs(document, text, min_characters)]
    paragraphs_P = np.array(rows, PARAGRAPH)
    part_P = (paragraphs_P["high"] >> np.uint64(64 - PARTS.bit_length() + 1)).astype(np.int64)
    np.save(folder / "paragraphs.npy", paragraphs_P[np.argsort(part_P, kind="stable")])
    np.save(folder / "parts.npy", np.append(0, np.cumsum(np.bincount(part_P, minlength=PARTS))))


def _paragraphs(document: int, text: str, min_characters: int) -> Iterator[tuple[int, ...]]:
    paragraphs = _BLANK_LINES.split(text)[::2]
    plain = [" ".join(paragraph.split()) for paragraph in paragraphs]
    visible = sum(map(bool, plain))
    for place, words in enumerate(plain):
        if len(words) >= min_characters:
            key = hashlib.sha256(words.encode()).digest()
            high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:16], "big")
            yield high, low, document, place, len(paragraphs[place]), len(text), visible


def find_repeats(
    shards: Sequence[Path], starts: Sequence[int], ranking_N: np.ndarray, kept_N: np.ndarray, max_share: float,
    folder: Path,
) -> None:  # fmt: skip
    """Write what `read_cuts` reads into `folder`: the repeated paragraphs of all shards.

    A paragraph stays in the best document that has it and does not go.

    Args:
        shards: folders of `spill`; `starts` has the number of each one's first document.
        ranking_N: numbers of the documents, the best first.
        kept_N: which documents are compared, by number.
    """
    rank_N = np.empty(len(ranking_N), np.int64)
    rank_N[ranking_N] = np.arange(len(ranking_N))
    bounds = [np.load(shard / "parts.npy") for shard in shards]
    count = max(1, len(ranking_N))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        groups, by_rank, by_document = 0, _Parts(Path(name) / "repeated"), _Parts(Path(name) / "cuts")
        for part in range(PARTS):
            repeated_Q, groups = _repeated(_of_part(shards, starts, bounds, part, kept_N), rank_N, groups)
            by_rank.add(repeated_Q, repeated_Q["rank"] * PARTS // count)
        del rank_N
        owner_G = np.full(groups, -1, np.int64)
        for repeated_Q in by_rank.read(_REPEATED):
            ordered = repeated_Q[np.lexsort((repeated_Q["place"], repeated_Q["rank"]))]
            cuts = np.array(list(_cuts(ordered, owner_G, ranking_N, max_share)), CUT)
            by_document.add(cuts, cuts["document"] * PARTS // count)
        bounds_of_shards = np.zeros(len(starts), np.int64)
        with (folder / "cuts").open("wb") as file:
            for cuts in by_document.read(CUT):
                cuts = cuts[np.argsort(cuts["document"], kind="stable")]
                cuts.tofile(file)
                bounds_of_shards += np.searchsorted(cuts["document"], starts)
    np.save(folder / "cuts_of_shards.npy", bounds_of_shards)


def read_cuts(folder: Path, shard: int) -> np.ndarray:
    """The cuts in a shard's documents, by document and place."""
    begin, end = np.load(folder / "cuts_of_shards.npy")[shard : shard + 2].tolist()
    return np.fromfile(folder / "cuts", CUT, end - begin, offset=begin * CUT.itemsize)


class _Parts:
    """Records in `PARTS` files, of which one is in memory at a time."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._paths = [folder / str(part) for part in range(PARTS)]

    def add(self, records: np.ndarray, part: np.ndarray) -> None:
        """Add each record to its part."""
        for number in np.unique(part).tolist():
            with self._paths[number].open("ab") as file:
                records[part == number].tofile(file)

    def read(self, kind: np.dtype) -> Iterator[np.ndarray]:
        """The parts that have records, in order."""
        yield from (np.fromfile(path, kind) for path in self._paths if path.exists())


def _of_part(
    shards: Sequence[Path], starts: Sequence[int], bounds: Sequence[np.ndarray], part: int, kept_N: np.ndarray
) -> np.ndarray:
    """The compared documents' paragraphs whose keys are in a part, with the documents' numbers over all shards."""
    found = [np.empty(0, PARAGRAPH)]
    for shard, start, bounds_of in zip(shards, starts, bounds, strict=False):
        begin, end = bounds_of[part : part + 2].tolist()
        own = np.array(np.load(shard / "paragraphs.npy", mmap_mode="r")[begin:end])
        own["document"] += start
        found.append(own[kept_N[own["document"]]])
    return np.concatenate(found)


def _repeated(paragraphs_P: np.ndarray, rank_N: np.ndarray, groups: int) -> tuple[np.ndarray, int]:
    """Those that occur more than once, with the numbers of their groups, which go on from `groups`."""
    ordered = paragraphs_P[np.lexsort((paragraphs_P["low"], paragraphs_P["high"]))]
    before_P = np.zeros(len(ordered), bool)  # the one before is the same
    before_P[1:] = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    within_P = before_P.copy()
    within_P[:-1] |= before_P[1:]
    chosen = ordered[within_P]
    repeated_Q = np.empty(len(chosen), _REPEATED)
    repeated_Q["rank"] = rank_N[chosen["document"]]
    repeated_Q["group"] = groups - 1 + np.cumsum(~before_P[within_P])
    for name in ("place", "characters", "text", "visible"):
        repeated_Q[name] = chosen[name]
    return repeated_Q, groups + int(np.count_nonzero(~before_P[within_P]))


def _cuts(
    ordered: np.ndarray, owner_G: np.ndarray, ranking_N: np.ndarray, max_share: float
) -> Iterator[tuple[int, int, int, bool]]:
    """The cuts in documents whose repeated paragraphs are `ordered`, the best document first; owners are added."""
    for rank, found in groupby(ordered.tolist(), itemgetter(0)):
        document = int(ranking_N[rank])
        new: set[int] = set()
        cuts, lost, length, shown = [], 0, 0, 0
        for _, place, group, characters, length, shown in found:  # noqa: B007 (the last two are the document's)
            if (owner := int(owner_G[group])) >= 0 or group in new:
                cuts.append((place, owner if owner >= 0 else document))
                lost += characters
            else:
                new.add(group)
        goes = bool(cuts) and (lost / length > max_share or len(cuts) == shown)
        yield from ((document, place, of, goes) for place, of in cuts)
        if not goes:
            owner_G[list(new)] = document
