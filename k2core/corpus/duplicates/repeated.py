"""Which paragraphs repeat one of a better document: the second search of curation that sees all shards as numbers.

Each shard's paragraphs are spilled as `PARAGRAPH`. A part of their keys is in memory at a time, and then a part of the
documents, in the order of their ranks: a paragraph stays in the best document that has it and does not go.

Shapes: N documents, P paragraphs of a shard, Q repeated paragraphs of a part, G distinct repeated ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from k2core.corpus.duplicates.paragraphs import counted

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


def spill(folder: Path, texts: Iterable[tuple[int, str]], min_characters: int) -> None:
    """Write the paragraphs of a shard's documents (place in the shard, text) that count into `folder`, part by part."""
    rows = [row for document, text in texts for row in counted(document, text, min_characters)]
    paragraphs_P = np.array(rows, PARAGRAPH)
    part_P = (paragraphs_P["high"] >> np.uint64(64 - PARTS.bit_length() + 1)).astype(np.int64)
    np.save(folder / "paragraphs.npy", paragraphs_P[np.argsort(part_P, kind="stable")])
    np.save(folder / "parts.npy", np.append(0, np.cumsum(np.bincount(part_P, minlength=PARTS))))


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
