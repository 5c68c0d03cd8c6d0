"""Which documents repeat a better one: the only step of curation that sees all documents, by number and without texts.

Documents are asked in the order of quality, then id. One that has the digest of a kept document, or shares a band and
enough hashes with one, goes; any other is kept. datatrove's clustering by union-find follows chains of small steps (A
like B, B like C) and so drops documents that resemble no kept one.

Each band's keys are sorted once. Documents that share a key are a group, and a group of two or more has a row of
`slots`: how many of it are kept so far, and which. A document in no group is kept without being looked at. In memory
are the ranking and one band's keys while they are sorted: about 40 bytes a document. The rest is on disk.

Shapes: N documents, M of them in a group of a band, C candidates, H places of a signature, B bands.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from k2core.corpus.duplicates.fingerprints import Fingerprints, spill

BLOCK = 2**15
"""Documents whose groups are in memory at a time."""
_FIRST = 7
"""Kept documents of a group that are read at once; most groups have fewer."""
KEPT, EXACT = -1, 0
VERDICT = np.dtype([("of", "<i8"), ("equal", "<u2")])
"""A document's verdict: the number of the kept document that it repeats, or `KEPT`; and how many hashes are equal, or
`EXACT`."""


@dataclass(frozen=True)
class Duplicate:
    """Document `id` repeats the kept document `of`; `similarity` is the estimated Jaccard similarity."""

    id: str
    of: str
    similarity: float
    exact: bool


def find_duplicates(prints: Fingerprints, folder: Path, min_similarity: float) -> None:
    """Write `ranking.npy` (numbers of documents, the best first) and `verdicts.npy` (by number) into `folder`."""
    ranking_N = prints.ranking()
    np.save(folder / "ranking.npy", ranking_N)
    with tempfile.TemporaryDirectory(dir=folder) as name, prints.joined(Path(name)), ExitStack() as stack:
        groups = stack.enter_context(closing(_Groups(prints, ranking_N, Path(name))))
        verdicts_N = np.zeros(len(prints), VERDICT)
        verdicts_N["of"] = KEPT
        for start in range(0, len(prints), BLOCK):
            cells_BN = groups.block(start)
            for place in np.flatnonzero(cells_BN.any(axis=0)).tolist():
                cells = cells_BN[:, place].tolist()
                number = int(ranking_N[start + place])
                if (repeats := _repeats(number, cells, groups, prints, min_similarity)) is None:
                    groups.add(number, cells)
                else:
                    verdicts_N[number] = repeats
            prints.forget()
        np.save(folder / "verdicts.npy", verdicts_N)


def deduplicate(rows: Sequence[Mapping[str, Any]], min_similarity: float, folder: Path) -> dict[str, Duplicate]:
    """`id` → what it repeats, for the duplicates among `rows` (`id`, `quality`, `digest`, `minhash`) as one shard.

    Args:
        folder: for the files of the search; empty.
    """
    if not rows:
        return {}
    spill(folder / "shard", rows)
    prints = Fingerprints([folder / "shard"])
    find_duplicates(prints, folder, min_similarity)
    verdicts_N = np.load(folder / "verdicts.npy")
    return {
        rows[number]["id"]: Duplicate(rows[number]["id"], rows[of]["id"], similarity_of(equal, prints), equal == EXACT)
        for number, (of, equal) in enumerate(verdicts_N.tolist())
        if of != KEPT
    }


def similarity_of(equal: int, prints: Fingerprints) -> float:
    """The estimated Jaccard similarity in a verdict."""
    return 1.0 if equal == EXACT else equal / prints.hashes


def _repeats(
    number: int, cells: Sequence[int], groups: _Groups, prints: Fingerprints, min_similarity: float
) -> tuple[int, int] | None:
    """The verdict on a document that repeats a kept one; of several the nearest, then the one of the highest id."""
    digest, *bands = cells
    if same := groups.kept(digest):
        own = prints.digest(number)
        for twin in same:  # two, if digests begin alike by chance
            if prints.digest(twin) == own:
                return twin, EXACT
    candidates = list({one for cell in bands for one in groups.kept(cell)})
    if not candidates:
        return None
    same_CH = prints.signatures(candidates) == prints.signatures([number])
    share_C = same_CH.reshape(len(candidates), prints.bands, -1).all(axis=2).any(axis=1)  # a key may be equal by chance
    equal_C = same_CH.sum(axis=1) * share_C
    most = int(equal_C.max())
    if not most or most / prints.hashes < min_similarity:
        return None
    nearest = [candidates[place] for place in np.flatnonzero(equal_C == most).tolist()]
    return (nearest[0] if len(nearest) == 1 else max(nearest, key=prints.id_of)), most


class _Groups:
    """Who shares a key with whom, on disk.

    `cells` says where the group of each document in each band is in `slots`, 0 for none; documents are in the order of
    rank. There the group has the number of its kept documents, and then room for them.
    """

    def __init__(self, prints: Fingerprints, ranking_N: np.ndarray, folder: Path) -> None:
        self._count, self._bands, self._path = len(prints), 1 + prints.bands, folder / "cells"
        used = 1
        with self._path.open("wb") as file:
            for band in range(self._bands):
                used = _write_cells(prints.keys(band)[ranking_N], used, file)
        self._slots = os.open(folder / "slots", os.O_RDWR | os.O_CREAT)
        os.ftruncate(self._slots, 8 * used)

    def block(self, start: int) -> np.ndarray:
        """The cells of up to `BLOCK` documents from rank `start` on, shape (1 + B, up to BLOCK)."""
        count = min(BLOCK, self._count - start)
        bands = [8 * (band * self._count + start) for band in range(self._bands)]
        return np.stack([np.fromfile(self._path, np.uint64, count, offset=offset) for offset in bands])

    def kept(self, cell: int) -> Sequence[int]:
        """The kept documents of a group; none of cell 0."""
        if not cell:
            return ()
        count, *first = self._read(cell, 1 + _FIRST)
        return first[:count] if count <= _FIRST else self._read(cell + 1, count)

    def add(self, number: int, cells: Sequence[int]) -> None:
        """Keep a document, in each of its groups."""
        for cell in filter(None, cells):
            count = self._read(cell, 1)[0] + 1
            os.pwrite(self._slots, struct.pack("<Q", number), 8 * (cell + count))
            os.pwrite(self._slots, struct.pack("<Q", count), 8 * cell)

    def close(self) -> None:
        os.close(self._slots)

    def _read(self, cell: int, count: int) -> list[int]:
        """Up to `count` places of the slots; read, not mapped, which would count as memory of this process."""
        return np.frombuffer(os.pread(self._slots, 8 * count, 8 * cell), "<u8").tolist()


def _write_cells(keys_N: np.ndarray, used: int, file: Any) -> int:
    """Append a band's cells to `file`; returns how many places of the slots are then `used`."""
    places_N = np.argsort(keys_N, kind="stable")
    keys_N = keys_N[places_N]
    before_N = np.zeros(len(keys_N), bool)  # the one before has the same key
    before_N[1:] = (keys_N[1:] == keys_N[:-1]) & (keys_N[1:] != 0)
    within_N = before_N.copy()
    within_N[:-1] |= before_N[1:]
    members_M = places_N[within_N]
    del keys_N, places_N
    first_M = np.flatnonzero(~before_N[within_N])
    sizes = np.diff(np.append(first_M, len(members_M)))
    cells_N = np.zeros(len(before_N), np.uint64)
    cells_N[members_M] = np.repeat(used + first_M + np.arange(len(first_M)), sizes)
    cells_N.tofile(file)
    return used + len(members_M) + len(first_M)
