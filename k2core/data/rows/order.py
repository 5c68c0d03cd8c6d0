"""Which documents the token shards hold, and in which order: `tokenize` writes by it, lineage finds documents by it.

Rephrased documents train beside their sources, in the source's domain and with its quality and rate. Questions with
answers, and recall documents, are domains of their own, of which nothing is held out. The order is random but fixed, so
that any first part of a shard is a fair sample.

Texts are read a block at a time. Of all documents at once there are numbers alone, about 16 bytes each.

Shapes: N documents of a shard, R rows of a block.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from k2core.corpus.blocks import Block, Blocks, blocks_of
from k2core.data.rows.shards import SPLITS

QUESTIONS, RECALL = "qa", "recall"
"""The shards' domains of questions with answers, and of documents that can only be continued by reading back."""
TABLE = "documents.parquet"


@dataclass(frozen=True)
class Group:
    """The documents of a shard in its order: their rows among those of all blocks, their scores, how often they come
    in an epoch."""

    row_N: np.ndarray
    quality_N: np.ndarray
    rate_N: np.ndarray

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, places: np.ndarray) -> Group:
        """Some of the documents."""
        return Group(self.row_N[places], self.quality_N[places], self.rate_N[places])


@dataclass(frozen=True)
class Order(Blocks):
    """The blocks of all tables, and the shards' documents by split and domain."""

    groups: dict[tuple[str, str], Group]


def in_order(curated: Path, rephrased: Path, questions: Path, recall: Path) -> Order:
    """The documents of the four tables, by split and domain, in the order of their shards.

    Raises:
        StorageError: one of the folders has no table of documents.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    blocks: dict[str, list[Block]] = {}
    for kind, folder in (("curated", curated), ("rephrased", rephrased), (QUESTIONS, questions), (RECALL, recall)):
        last = [block for of_kind in blocks.values() for block in of_kind][-1:]
        blocks[kind] = blocks_of(kind, folder / TABLE, last[0].first + last[0].rows if last else 0)
    origins = [block.read(["origin"])["origin"] for block in blocks["rephrased"]]
    sources = pc.unique(pa.chunked_array([chunk for column in origins for chunk in column.chunks], pa.string()))
    quality, rate = np.ones(len(sources), np.float32), np.ones(len(sources), np.float32)
    parts: dict[tuple[str, str], list[Group]] = {}

    def add(block: Block, splits_R: Any, domains_R: Any, quality_R: np.ndarray, rate_R: np.ndarray) -> None:
        for split, domain in sorted(set(zip(splits_R, domains_R, strict=True))):
            if split in SPLITS:  # others wait for their translation
                rows = np.flatnonzero((splits_R == split) & (domains_R == domain))
                parts.setdefault((split, domain), []).append(Group(block.first + rows, quality_R[rows], rate_R[rows]))

    for block in blocks["curated"]:
        table = block.read(["id", "domain", "split", "quality", "rate"])
        quality_R, rate_R = (table[name].to_numpy().astype(np.float32) for name in ("quality", "rate"))
        add(block, _strings(table["split"]), _strings(table["domain"]), quality_R, rate_R)
        if len(sources):
            found = pc.index_in(sources, value_set=table["id"])
            there = found.is_valid().to_numpy(zero_copy_only=False)
            at = found.drop_null().to_numpy()
            quality[there], rate[there] = quality_R[at], rate_R[at]
    for block, origin in zip(blocks["rephrased"], origins, strict=True):
        at = pc.index_in(origin, value_set=sources).to_numpy()
        domains_R = _strings(block.read(["domain"])["domain"])
        add(block, np.full(block.rows, SPLITS[0], object), domains_R, quality[at], rate[at])
    for domain in (QUESTIONS, RECALL):
        for block in blocks[domain]:
            ones = np.ones(block.rows, np.float32)
            splits_R, domains_R = (np.full(block.rows, value, object) for value in (SPLITS[0], domain))
            add(block, splits_R, domains_R, ones, ones)
    groups = {key: _shuffled(key, parts[key]) for key in sorted(parts)}
    return Order([block for of_kind in blocks.values() for block in of_kind], groups)


def fitting(lengths_N: np.ndarray, most: int) -> np.ndarray:
    """Which of the documents of these lengths (end marks counted) are taken for `most` tokens at most: each that fits
    into what those before it have left."""
    places = []
    for place, length in enumerate(lengths_N.tolist()):
        if length <= most:
            places.append(place)
            most -= length
    return np.array(places, np.int64)


def _strings(column: Any) -> np.ndarray:
    """A column of few different strings as an array of objects."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.array(encoded.dictionary.to_pylist(), object)[encoded.indices.to_numpy()]


def _shuffled(key: tuple[str, str], parts: Sequence[Group]) -> Group:
    group = Group(*(np.concatenate([getattr(part, name) for part in parts]) for name in Group.__dataclass_fields__))
    order = array("q", range(len(group)))
    Random(f"tokenize/{key[0]}/{key[1]}").shuffle(order)
    return group.take(np.frombuffer(order, np.int64))
