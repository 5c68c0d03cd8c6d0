"""Second step, all shards at once but no texts: what repeats better documents. And what it leaves of each shard.

Shapes: N documents of all shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from k2core.corpus.curation import EXACT, NEAR, PARAGRAPHS, CurationConfig, Rejection
from k2core.corpus.duplicates import clusters, paragraphs, repeated
from k2core.corpus.duplicates.clusters import KEPT
from k2core.corpus.duplicates.fingerprints import Fingerprints
from k2core.corpus.steps.candidates import read_candidates
from k2core.storage import publish, read_columns

Row = dict[str, Any]


def write_repeats(shards: Sequence[Path], config: CurationConfig, folder: Path) -> None:
    """Publish `folder` with the verdicts on the candidates of all `shards`, and the paragraphs to cut."""
    with publish(folder) as scratch:
        scratch.mkdir()
        prints = Fingerprints(shards)
        clusters.find_duplicates(prints, scratch, config.min_similarity)
        ranking_N = np.load(scratch / "ranking.npy")
        kept_N = np.load(scratch / "verdicts.npy")["of"] == KEPT
        repeated.find_repeats(shards, prints.starts, ranking_N, kept_N, config.paragraphs.max_share, scratch)


@dataclass(frozen=True)
class Left:
    """What the rules and the search for repeats leave of a shard.

    Attributes:
        kept: `row`, `id`, `domain`, `text` without repeated paragraphs, `quality` and `split` of each, in order.
        rejections: row → rejection of the others.
        cut: rows of kept documents that lost paragraphs.
    """

    kept: list[Row]
    rejections: dict[int, Rejection]
    cut: set[int]


class Leftovers:
    """What is left of each shard.

    Args:
        documents: folder of the documents' tables.
        shards: name of such a table → the folder of its candidates; in order.
        repeats: the folder of `write_repeats`.
    """

    def __init__(self, documents: Path, shards: Mapping[str, Path], repeats: Path) -> None:
        self.documents, self._shards, self._repeats = documents, shards, repeats
        self._prints = Fingerprints([*shards.values()])
        self._numbers = {name: number for number, name in enumerate(shards)}

    def of(self, name: str) -> Left:
        """What is left of the documents' table `name`."""
        number = self._numbers[name]
        candidates, rejections = read_candidates(self._shards[name])
        start, end = self._prints.starts[number : number + 2]
        for place, (of, equal) in enumerate(np.load(self._repeats / "verdicts.npy", mmap_mode="r")[start:end].tolist()):
            if of != KEPT:
                reason = EXACT if equal == clusters.EXACT else NEAR
                similarity = clusters.similarity_of(equal, self._prints)
                rejections[candidates[place]["row"]] = Rejection(reason, similarity, self._prints.id_of(of))
        table = read_columns(self.documents / name, ["id", "text"]).to_pydict()
        cut = set()
        for document, cuts in groupby(repeated.read_cuts(self._repeats, number).tolist(), itemgetter(0)):
            _, places, owners, goes = zip(*cuts, strict=True)
            row = candidates[document - start]["row"]
            repeats = paragraphs.without(table["text"][row], places)
            if goes[0]:
                of = self._prints.id_of(owners[0])
                rejections[row] = Rejection(PARAGRAPHS, repeats.share, of, repeats.first)
            else:
                table["text"][row] = repeats.text
                cut.add(row)
        kept = [
            {**row, "id": table["id"][row["row"]], "text": table["text"][row["row"]]}
            for row in candidates
            if row["row"] not in rejections
        ]
        self._prints.forget()
        return Left(kept, rejections, cut)
