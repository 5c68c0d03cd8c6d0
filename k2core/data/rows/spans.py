"""The documents of a shard a span at a time, so that what a phase does first does not grow with the corpus.

Shapes: D documents of a span.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from random import Random

import numpy as np

SPAN = 2**20
"""Documents that are shuffled together. The order in the shard is random already (`k2core/data/rows/order.py`)."""


def spans(documents: int) -> int:
    """How many spans so many documents have."""
    return -(-documents // SPAN)


def bounds(documents: int, span: int) -> tuple[int, int]:
    """The first number of a span's documents, and the first after them."""
    return span * SPAN, min(documents, (span + 1) * SPAN)


@lru_cache(maxsize=16)
def shuffled(name: str, documents: int, span: int) -> np.ndarray:
    """The numbers of the documents of a span in an order that depends on `name` and the span, shape (D,)."""
    low, high = bounds(documents, span)
    order = list(range(low, high))
    Random(f"{name}/{span}" if span else name).shuffle(order)
    return np.array(order)


def hash_fractions(seed: str, count: int, start: int = 0) -> np.ndarray:
    """A number in [0, 1) for each of `start` … start+count-1, from `seed` and the number alone (SplitMix64)."""
    first = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    with np.errstate(over="ignore"):
        numbers = np.arange(start + 1, start + count + 1, dtype=np.uint64)
        z = np.uint64(first) + numbers * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # 32 bits: sums with rates and epochs stay exact enough that rate 1 is always there.
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)) / 2.0**32
