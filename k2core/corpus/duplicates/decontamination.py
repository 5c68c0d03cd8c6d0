"""Contamination: training documents that contain a passage of an evaluation item.

A passage is a word n-gram (simplified words: no case, no punctuation, no diacritics). It has 13 words for evaluation
sets, as for GPT-3 (appendix C), and more for held-out text, because phrases recur within a corpus. A shorter item of at
least `SHORTEST` words is searched for as a whole; a still shorter one could match by chance and is only counted.
n-grams that many items share are the wording of the set, and n-grams of held-out text that many documents share are
phrases of the corpus: neither is evidence.

The index holds 16 bytes per n-gram and 8 per word; a document costs one look-up per word. A saved index is read from
the disk where it is looked at, by any number of processes. The result depends on texts and settings alone, not on
their order.

Shapes: N words of a text, G its n-grams, K n-grams of the index, A short items, W words of all items, I items.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np

from k2core.corpus.duplicates.shingles import ngram_hashes, simple_words, word_hashes
from k2core.storage import parse_json, write_json

Name = TypeVar("Name")
SHORTEST = 8
"""Words of the shortest item that is searched for, as for GPT-3."""
COMMON = 10
"""An n-gram in more items, or more documents, than this is not evidence (GPT-3: ignored above 10)."""
_ABOUT, _ARRAYS = "about.json", ("keys_K", "items_K", "words_W", "ends_I")


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
    """The n-grams of evaluation sets.

    Attributes:
        searched: by set, the number of items that can be found; `too_short`, of those that cannot.
    """

    def __init__(self, sets: Sequence[EvaluationSet], ngram_words: int) -> None:
        if ngram_words < SHORTEST:
            raise ValueError(f"n-grams of {ngram_words} words say too little; use {SHORTEST} or more")
        self.ngram_words = ngram_words
        self.searched: Counter[str] = Counter()
        self.too_short: Counter[str] = Counter()
        self._names: list[str] = []
        hashes = [np.empty(0, np.uint64)]
        keys, items = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for group in sets:
            own = [grams for grams in self._add(group, hashes) if len(grams[1])]
            common = _shared_by_many([grams_G for _, grams_G in own])
            for item, grams_G in own:
                left_G = np.setdiff1d(grams_G, common)
                keys.append(left_G)
                items.append(np.full(len(left_G), item))
        # Of equal n-grams the first item's stays: np.unique gives first places.
        self._keys_K, first_K = np.unique(np.concatenate(keys), return_index=True)
        self._items_K = np.concatenate(items)[first_K]
        self._words_W, self._ends_I = np.concatenate(hashes), np.cumsum([len(each) for each in hashes])
        self._find_short()

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, which is made."""
        folder.mkdir(parents=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, f"_{name}"))
        about = {"ngram_words": self.ngram_words, "names": self._names}
        write_json(folder / _ABOUT, about | {"searched": self.searched, "too_short": self.too_short})

    @classmethod
    def open(cls, folder: Path) -> Self:
        """A saved index."""
        about = parse_json((folder / _ABOUT).read_text(encoding="utf-8"))
        index = cls([], about["ngram_words"])
        index._names = about["names"]
        index.searched, index.too_short = Counter(about["searched"]), Counter(about["too_short"])
        for name in _ARRAYS:
            setattr(index, f"_{name}", np.load(folder / f"{name}.npy", mmap_mode="r"))
        index._find_short()
        return index

    def _words(self, item: int) -> np.ndarray:
        """The hashes of an item's words."""
        return self._words_W[self._ends_I[item] : self._ends_I[item + 1]]

    def _find_short(self) -> None:
        """The items that are sought as a whole, by the n-gram that they begin with."""
        self._short: dict[int, list[int]] = defaultdict(list)
        for item in np.flatnonzero(np.diff(self._ends_I) < self.ngram_words).tolist():
            self._short[int(ngram_hashes(self._words(item)[:SHORTEST], SHORTEST)[0])].append(item)
        self._anchors_A = np.array(sorted(self._short), np.uint64)

    def _add(self, group: EvaluationSet, hashes: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """`(number, distinct n-grams)` of the items that are long enough; the hashes of their words to `hashes`."""
        for name, text in sorted(group.texts.items()):
            hashes_N = word_hashes(simple_words(text))
            if len(hashes_N) < SHORTEST:
                self.too_short[group.name] += 1
                continue
            self.searched[group.name] += 1
            number = len(self._names)
            self._names.append(f"{group.name}/{name}")
            hashes.append(hashes_N)
            yield number, np.unique(ngram_hashes(hashes_N, self.ngram_words))

    def matches(self, hashes_N: np.ndarray) -> list[Match]:
        """Every n-gram and whole item among words with these hashes."""
        found = []
        for start, place in _present(ngram_hashes(hashes_N, self.ngram_words), self._keys_K):
            found.append(Match(start, self.ngram_words, int(self._items_K[place]), int(self._keys_K[place])))
        for start, place in _present(ngram_hashes(hashes_N, SHORTEST), self._anchors_A):
            for item in self._short[int(self._anchors_A[place])]:
                size = len(self._words(item))
                if np.array_equal(hashes_N[start : start + size], self._words(item)):
                    found.append(Match(start, size, item, -1 - item))
        return found

    def hit(self, words: Sequence[str], matches: Sequence[Match]) -> Hit:
        """The longest run of overlapping `matches` as a passage; of equals the first."""
        start, end, item = max(_runs(matches), key=lambda run: (run[1] - run[0], -run[0]))
        share = min(1.0, (end - start) / len(self._words(item)))
        return Hit(self._names[item], " ".join(words[start:end]), round(share, 4))


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


def _shared_by_many(grams: Sequence[np.ndarray]) -> np.ndarray:
    """n-grams in more than `COMMON` of the items, whose n-grams are distinct within each."""
    keys_K, counts_K = np.unique(np.concatenate([np.empty(0, np.uint64), *grams]), return_counts=True)
    return keys_K[counts_K > COMMON]


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
