"""Exact and near duplicates: fingerprints when tagging, the choice of what stays when curating.

A signature is rensa's R-MinHash (Rust) over the hashes of a text's word n-grams: 14 buckets of 8 hashes find pairs of
Jaccard similarity 0.8 with probability 0.92. It depends on text, configuration and the version of rensa's algorithm
(2, as long as rensa stays below 0.6), not on machine, threads or process: SplitMix64 of n-gram and seed picks a place
of the signature in each of three rounds, and a place keeps its minimum. datatrove's MinHash is the same in kind, in
numpy with files between its steps; `python -m benchmarks dedup` compares the two. Its clustering by union-find follows
chains of small steps (A like B, B like C) and so drops documents that resemble no kept one. Here a document goes only
if it resembles a kept one, and quality and id alone decide which is kept.

Shapes: N n-grams, H places of a signature.
"""

from __future__ import annotations

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from k2core.recipe import Section

COLUMNS = {"digest": "string", "minhash": "list<binary>"}


class MinhashConfig(Section):
    """How near duplicates are fingerprinted; a change re-runs `tag`."""

    ngram_words: int = Field(ge=1, description="words in a shingle")
    buckets: int = Field(ge=1, description="bands of the signature; one equal band makes a candidate pair")
    hashes_per_bucket: int = Field(ge=1, description="hashes in a band")
    seed: int = Field(ge=0, description="seed of the hash functions")


@dataclass(frozen=True)
class Fingerprint:
    """`digest` identifies the text except white space; `minhash` has a string of uint32 hashes per bucket."""

    id: str
    digest: str
    minhash: list[bytes]


@dataclass(frozen=True)
class Duplicate:
    """Document `id` repeats the kept document `of`; `similarity` is the estimated Jaccard similarity."""

    id: str
    of: str
    similarity: float
    exact: bool


def attributes(text: str, config: MinhashConfig) -> dict[str, Any]:
    """The fingerprints of one text. A text shorter than a shingle has no `minhash` (an empty list)."""
    from k2core.corpus.duplicates.shingles import ngram_hashes, simple_words, word_hashes

    digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
    shingles_N = ngram_hashes(word_hashes(simple_words(text)), config.ngram_words)
    return {"digest": digest, "minhash": _signature(shingles_N, config) if len(shingles_N) else []}


def find_duplicates(ranked: Iterable[Fingerprint], min_similarity: float) -> list[Duplicate]:
    """What is dropped from `ranked`, in which the better of two duplicates comes first.

    A document is a near duplicate if it shares a bucket with a kept document and at least `min_similarity` of the
    hashes. One pass; memory grows with what is kept.
    """
    kept_digests: dict[str, str] = {}
    kept: dict[str, Any] = {}
    index: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    duplicates: list[Duplicate] = []
    for document in ranked:
        if (twin := kept_digests.get(document.digest)) is not None:
            duplicates.append(Duplicate(document.id, twin, 1.0, exact=True))
            continue
        buckets, hashes_H = list(enumerate(document.minhash)), _hashes(document)
        candidates = dict.fromkeys(other for bucket in buckets for other in index.get(bucket, ()))
        nearest = max(((_share(hashes_H, kept[other]), other) for other in candidates), default=(0.0, ""))
        if candidates and nearest[0] >= min_similarity:
            duplicates.append(Duplicate(document.id, nearest[1], nearest[0], exact=False))
            continue
        kept_digests[document.digest], kept[document.id] = document.id, hashes_H
        for bucket in buckets:
            index[bucket].append(document.id)
    return duplicates


def similarity(left: Fingerprint, right: Fingerprint) -> float:
    """Share of equal hashes: an unbiased estimate of the Jaccard similarity of the two sets of shingles."""
    return _share(_hashes(left), _hashes(right))


def _signature(shingles_N: Any, config: MinhashConfig) -> list[bytes]:
    from rensa import RMinHash

    size = config.buckets * config.hashes_per_bucket
    ends = [0, len(shingles_N)]
    (row,) = RMinHash.digest_matrix_from_flat_token_hashes(shingles_N, ends, size, config.seed).to_rows()
    packed, width = struct.pack(f"<{size}I", *row), 4 * config.hashes_per_bucket
    return [packed[start : start + width] for start in range(0, len(packed), width)]


def _hashes(document: Fingerprint) -> Any:
    import numpy as np

    return np.frombuffer(b"".join(document.minhash), dtype="<u4")


def _share(left_H: Any, right_H: Any) -> float:
    import numpy as np

    return int(np.count_nonzero(left_H == right_H)) / len(left_H)
