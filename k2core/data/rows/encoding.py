"""Documents as token ids: each block by itself, in files; then gathered into the order of the shards.

Shapes: N documents of a shard, R rows of a block.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from k2core.corpus.blocks import Block
from k2core.corpus.workers import Watch
from k2core.data.rows.order import Group, Order
from k2core.data.rows.shards import SPLITS, TokenizedDocument, token_dtype
from k2core.storage import parse_json, publish, write_json

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

_CHUNK = 1000
_GATHERED = 8192
"""Documents that are read at once when a shard is written."""


@dataclass(frozen=True)
class Encoding:
    """The work on a block, called with its name: it publishes a folder of that name in `folder`.

    The folder holds the token ids of the rows, one after the other (`ids.bin`), how many each has, the UTF-8 bytes of
    its text, and the ids of documents that killed a process: they have the tokens of an empty text.
    """

    blocks: Mapping[str, Block]
    tokenizer: Path
    folder: Path

    def __call__(self, name: str, watch: Watch) -> None:
        from k2core.chat.tokenizer import Tokenizer

        tokenizer, block = Tokenizer.load(self.tokenizer), self.blocks[name]
        dtype = token_dtype(tokenizer.vocab_size)
        columns = ["id", "text", *(["split"] if name.startswith("curated") else [])]
        lengths, sizes, aside = list[int](), list[int](), list[str]()
        with publish(self.folder / name) as scratch:
            scratch.mkdir()
            with (scratch / "ids.bin").open("wb") as file:
                for chunk in block.read(columns).to_batches(_CHUNK):
                    rows = chunk.to_pylist()
                    aside += [row["id"] for row in rows if watch.kills(row["id"])]
                    # A split that is not trained on has no tokens either.
                    texts = [
                        "" if watch.kills(row["id"]) or row.get("split", SPLITS[0]) not in SPLITS else row["text"]
                        for row in rows
                    ]
                    encoded = _encoded(tokenizer, [row["id"] for row in rows], texts, watch)
                    file.write(np.fromiter(itertools.chain.from_iterable(encoded), dtype).tobytes())
                    lengths += map(len, encoded)
                    sizes += [len(text.encode()) for text in texts]
            np.save(scratch / "lengths.npy", np.array(lengths, np.uint32))
            np.save(scratch / "sizes.npy", np.array(sizes, np.uint32))
            write_json(scratch / "aside.json", aside)


def _encoded(tokenizer: Tokenizer, ids: Sequence[str], texts: Sequence[str], watch: Watch) -> list[list[int]]:
    """The token ids of each text: of many at once, or, where a process died, one by one to know at which it dies."""
    if not watch.deaths:
        return tokenizer.encode_batch(list(texts))
    encoded = []
    for id, text in zip(ids, texts, strict=True):
        watch.at(id)
        encoded.append(tokenizer.encode(text))
    watch.at("")
    return encoded


class Encoded:
    """What `Encoding` left of all blocks.

    Attributes:
        aside: ids of documents that killed a process.
    """

    def __init__(self, order: Order, folder: Path, vocab_size: int) -> None:
        self._order, self._folder, self._dtype = order, folder, token_dtype(vocab_size)
        folders = [folder / block.name for block in order.blocks]
        self._lengths = np.concatenate([np.load(path / "lengths.npy") for path in folders])
        self._sizes = np.concatenate([np.load(path / "sizes.npy") for path in folders])
        self.aside: list[str] = [
            id for path in folders for id in parse_json((path / "aside.json").read_text(encoding="utf-8"))
        ]

    def lengths(self, group: Group) -> np.ndarray:
        """Tokens of each document of a shard, its end mark counted, shape (N,)."""
        return self._lengths[group.row_N].astype(np.int64) + 1

    def first(self, group: Group, most: int) -> Group:
        """The first documents of a shard that have `most` bytes of text together."""
        sums_N = itertools.accumulate(self._sizes[group.row_N].tolist())
        return group.take(np.arange(sum(1 for _ in itertools.takewhile(lambda size: size <= most, sums_N))))

    def texts(self, group: Group) -> list[str]:
        """The texts of a shard's documents, in their order."""
        sizes = self._sizes[group.row_N].tolist()
        texts = self._order.values(group.row_N, "text")
        return [text if size else "" for text, size in zip(texts, sizes, strict=True)]

    def documents(self, split: str, domain: str, group: Group) -> Iterator[TokenizedDocument]:
        """The documents of a shard, in their order."""
        for start in range(0, len(group), _GATHERED):
            some = group.take(np.arange(start, min(start + _GATHERED, len(group))))
            sizes = self._sizes[some.row_N].tolist()
            for place, tokens in enumerate(self._tokens(some.row_N)):
                yield TokenizedDocument(
                    split, domain, tokens, sizes[place], float(some.quality_N[place]), float(some.rate_N[place])
                )

    def _tokens(self, rows: np.ndarray) -> list[np.ndarray]:
        """The token ids of each of the rows; files are read, not mapped: what is mapped counts as memory."""
        found: list[np.ndarray] = [np.empty(0, self._dtype)] * len(rows)
        width = self._dtype.itemsize
        for block, places in self._order.by_block(rows):
            lengths_R = self._lengths[block.first : block.first + block.rows].astype(np.int64)
            starts_R = lengths_R.cumsum() - lengths_R
            file = os.open(self._folder / block.name / "ids.bin", os.O_RDONLY)
            try:
                for place in places.tolist():
                    row = int(rows[place]) - block.first
                    content = os.pread(file, int(lengths_R[row]) * width, int(starts_R[row]) * width)
                    found[place] = np.frombuffer(content, self._dtype)
            finally:
                os.close(file)
        return found
