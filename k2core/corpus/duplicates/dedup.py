"""Fingerprints of exact and near duplicates, made when tagging; `clusters` chooses by them what stays.

A signature is rensa's R-MinHash (Rust) over the hashes of a text's word n-grams: 14 buckets of 8 hashes find pairs of
Jaccard similarity 0.8 with probability 0.92. It depends on text, configuration and the version of rensa's algorithm
(2, as long as rensa stays below 0.6), not on machine, threads or process: SplitMix64 of n-gram and seed picks a place
of the signature in each of three rounds, and a place keeps its minimum. datatrove's MinHash is the same in kind, in
numpy; `python -m benchmarks dedup` compares the two.

Shapes: N n-grams.
"""

from __future__ import annotations

import hashlib
import struct
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


def attributes(text: str, config: MinhashConfig) -> dict[str, Any]:
    """The fingerprints of one text. A text shorter than a shingle has no `minhash` (an empty list)."""
    from k2core.corpus.duplicates.shingles import ngram_hashes, simple_words, word_hashes

    digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
    shingles_N = ngram_hashes(word_hashes(simple_words(text)), config.ngram_words)
    return {"digest": digest, "minhash": _signature(shingles_N, config) if len(shingles_N) else []}


def _signature(shingles_N: Any, config: MinhashConfig) -> list[bytes]:
    from rensa import RMinHash

    size = config.buckets * config.hashes_per_bucket
    ends = [0, len(shingles_N)]
    (row,) = RMinHash.digest_matrix_from_flat_token_hashes(shingles_N, ends, size, config.seed).to_rows()
    packed, width = struct.pack(f"<{size}I", *row), 4 * config.hashes_per_bucket
    return [packed[start : start + width] for start in range(0, len(packed), width)]
