"""Word n-grams of a text as 64-bit numbers, by which near duplicates and contamination are found.

A word is hashed by xxh64, which is published and takes no seed from the process. An n-gram is the polynomial of its
words' hashes modulo 2^64, computed from running sums, so its cost does not grow with n.

Shapes: N words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import xxhash
from datatrove.utils.text import PUNCTUATION_TRANS

BASE = 0x9E3779B97F4A7C15
CACHED_WORDS = 2**20
"""Distinct words whose hashes are remembered; a full memory is cleared."""
_SIGN = re.compile(r"(?<![\w.)])-(?=\d)")
"""A minus that makes a number negative; not that of a range or a difference."""


def simple_words(text: str) -> list[str]:
    """Words without case and punctuation, as datatrove's `simplify_text` leaves them, but with numbers unchanged.

    datatrove writes every number as 0 and drops its sign; in mathematics these tell two problems apart.
    """
    return _SIGN.sub("minus", text.lower()).translate(PUNCTUATION_TRANS).split()


def word_hashes(words: Sequence[str]) -> np.ndarray:
    """One uint64 per word, shape (N,); diacritics do not count."""
    return np.fromiter(map(_HASHES.__getitem__, words), np.uint64, len(words))


def ngram_hashes(hashes_N: np.ndarray, n: int) -> np.ndarray:
    """The n-grams of words with these hashes in order, shape (N - n + 1,); none if there are fewer than n words."""
    count = len(hashes_N) - n + 1
    if count < 1:
        return hashes_N[:0]
    powers, inverses = _powers(1 << len(hashes_N).bit_length())
    sums = np.zeros(len(hashes_N) + 1, np.uint64)
    np.cumsum(hashes_N * powers[: len(hashes_N)], out=sums[1:])
    return (sums[n:] - sums[:count]) * inverses[:count]


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        if len(self) >= CACHED_WORDS:
            self.clear()
        plain = word if word.isascii() else _without_diacritics(word)
        value = self[word] = xxhash.xxh64_intdigest(plain)
        return value


_HASHES = _WordHashes()


def _without_diacritics(word: str) -> str:
    # One by one: ordering many marks behind one letter takes quadratic time.
    return "".join(c for one in word for c in unicodedata.normalize("NFD", one) if unicodedata.category(c) != "Mn")


@cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^-i modulo 2^64 for i from 0 to count - 1; an odd number has an inverse."""
    bases = np.ones((2, count), np.uint64)
    bases[0, 1:], bases[1, 1:] = BASE, pow(BASE, -1, 2**64)
    powers = np.cumprod(bases, axis=1, dtype=np.uint64)
    return powers[0], powers[1]
