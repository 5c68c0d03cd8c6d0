"""Contamination: training documents that contain a passage of an evaluation item.

A passage is a word n-gram (simplified words: no case, no punctuation, no diacritics). It has 13 words for evaluation
sets, as for GPT-3 (appendix C), and more for held-out text, because phrases recur within a corpus. A shorter item of at
least `SHORTEST` words is searched for as a whole; a still shorter one could match by chance and is only counted.
n-grams that many items share are the wording of the set, and n-grams of held-out text that many documents share are
phrases of the corpus: neither is evidence.

The index is files of 16 bytes an n-gram (`passages.py`), mapped into memory by all processes that read them; a document
costs one look-up per word. The result depends on texts and settings alone, not on their order.

Shapes: N words of a text, G its n-grams, K n-grams of the index, S short items.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from k2core.corpus.duplicates.passages import COMMON, SHORTEST, merge, short_item, spill
from k2core.corpus.duplicates.shingles import ngram_hashes, simple_words, word_hashes

Name = TypeVar("Name")


@dataclass(frozen=True)
class EvaluationSet:
    """A set of evaluation items: `texts` by the item's name."""

    name: str
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Hit:
    """The longest passage that a document shares with an item: `SET/ITEM`, the simplified words, their share."""

    item: str
    passage: str
    share: float


class Match(NamedTuple):
    """`size` words from word `start` on are an n-gram of `item`, or all of it; equal passages have equal `key`s."""

    start: int
    size: int
    item: int
    key: int


class Index:
    """The n-grams of items, read from the disk where they are looked at.

    Args:
        folder: of `write_index` or `passages.merge`.

    Attributes:
        searched: by set, the number of items that can be found; `too_short`, of those that cannot.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.ngram_words = int(about["ngram_words"])
        self.searched, self.too_short = (
            Counter({one["name"]: int(one[what]) for one in about["sets"]}) for what in ("searched", "too_short")
        )
        self._sets = [(int(one["start"]), str(one["name"])) for one in about["sets"]]
        self._names = pa.ipc.open_file(pa.memory_map(str(folder / "names.arrow"))).read_all()["name"]
        self._keys_K, self._items_K = _mapped(folder / "keys", "<u8"), _mapped(folder / "items", "<i8")
        self._anchors_S = _mapped(folder / "anchors", "<u8")
        self._short_S = _mapped(folder / "short", short_item(self.ngram_words))
        self._lengths = _mapped(folder / "lengths", "<i8")

    def matches(self, hashes_N: np.ndarray) -> list[Match]:
        """Every n-gram and whole item among words with these hashes."""
        found = []
        for start, place in _present(ngram_hashes(hashes_N, self.ngram_words), self._keys_K):
            found.append(Match(start, self.ngram_words, int(self._items_K[place]), int(self._keys_K[place])))
        for start, place in _present(ngram_hashes(hashes_N, SHORTEST), self._anchors_S):
            anchor = self._anchors_S[place]
            while place < len(self._anchors_S) and self._anchors_S[place] == anchor:
                item = int(self._short_S["item"][place])
                size = int(self._lengths[item])
                if np.array_equal(hashes_N[start : start + size], self._short_S["words"][place, :size]):
                    found.append(Match(start, size, item, -1 - item))
                place += 1
        return found

    def hit(self, words: Sequence[str], matches: Sequence[Match]) -> Hit:
        """The longest run of overlapping `matches` as a passage; of equals the first."""
        start, end, item = max(_runs(matches), key=lambda run: (run[1] - run[0], -run[0]))
        share = min(1.0, (end - start) / int(self._lengths[item]))
        group = [name for first, name in self._sets if first <= item][-1]
        return Hit(f"{group}/{self._names[item].as_py()}", " ".join(words[start:end]), round(share, 4))


def write_index(
    sets: Sequence[EvaluationSet], ngram_words: int, folder: Path, spilled: Sequence[tuple[str, Sequence[Path]]] = ()
) -> None:
    """Write the files of an `Index` of `sets`, and of those that are `spilled` (name, folders of `passages.spill`).

    Raises:
        ValueError: the n-grams are shorter than `SHORTEST` words.
    """
    if ngram_words < SHORTEST:
        raise ValueError(f"n-grams of {ngram_words} words say too little; use {SHORTEST} or more")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        parts = [(group.name, [Path(scratch, str(number))]) for number, group in enumerate(sets)]
        for group, (_, (part,)) in zip(sets, parts, strict=True):
            spill(part, group.texts.items(), ngram_words)
        merge([*parts, *spilled], ngram_words, folder)


def count_passages(documents: Iterable[tuple[Name, str]], index: Index) -> tuple[list[Name], Counter[int]]:
    """Which documents (name, text) share a passage with an item, and in how many of them each such passage is."""
    names = []
    seen: Counter[int] = Counter()
    for name, text in documents:
        if matches := index.matches(word_hashes(simple_words(text))):
            names.append(name)
            seen.update({match.key for match in matches})
    return names, seen


def find_contaminated(
    documents: Iterable[tuple[Name, str]], index: Index, seen: Mapping[int, int] | None = None
) -> dict[Name, Hit]:
    """Name → hit for the documents (name, text) that share a passage with an item of `index`.

    Args:
        seen: in how many documents each passage is. One in more than `COMMON` is no evidence where the items are
            held-out text of the same corpus. None for evaluation sets, which are quoted widely.
    """
    hits = {}
    for name, text in documents:
        words = simple_words(text)
        matches = index.matches(word_hashes(words))
        if evidence := [match for match in matches if seen is None or seen[match.key] <= COMMON]:
            hits[name] = index.hit(words, evidence)
    return hits


def _present(grams_G: np.ndarray, keys_K: np.ndarray) -> list[tuple[int, int]]:
    """`(place in grams_G, place in the sorted keys_K)` of the n-grams that are keys."""
    if not len(grams_G) or not len(keys_K):
        return []
    at_G = np.minimum(np.searchsorted(keys_K, grams_G), len(keys_K) - 1)
    places = np.flatnonzero(keys_K[at_G] == grams_G)
    return list(zip(places.tolist(), at_G[places].tolist(), strict=True))


def _mapped(path: Path, dtype: np.typing.DTypeLike) -> np.ndarray:
    """The records of a file, in memory where they are looked at."""
    return np.asarray(np.memmap(path, dtype, "r")) if path.stat().st_size else np.empty(0, dtype)


def _runs(matches: Sequence[Match]) -> list[tuple[int, int, int]]:
    """`(start, end, item)` of overlapping matches, merged; the item is the first one's."""
    runs: list[tuple[int, int, int]] = []
    for start, size, item, _ in sorted(matches):
        if runs and start < runs[-1][1]:
            before, end, owner = runs[-1]
            runs[-1] = before, max(end, start + size), owner
        else:
            runs.append((start, start + size, item))
    return runs
