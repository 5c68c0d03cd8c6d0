"""Exact and near duplicates: fingerprints when tagging, the choice of what stays when curating.

Signatures are datatrove's (`MinhashDedupSignature`: shingles of simplified text, 14 buckets of 8 hashes find pairs of
Jaccard similarity 0.8 with probability 0.924). The other three datatrove steps are not used: at this size an
index of buckets in memory takes a second, while they pass everything through files and merge by union-find, where
a chain of small steps (A like B, B like C) drops documents that resemble nothing which is kept. Here a document goes
only if it resembles a kept one, and which is kept follows from quality and id alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import Field

from k2core.recipe import Section

COLUMNS = {"digest": "string", "minhash": "list<binary>"}


class MinhashConfig(Section):
    """How near duplicates are fingerprinted; a change of these tags anew."""

    ngram_words: int = Field(ge=1, description="words in a shingle")
    buckets: int = Field(ge=1, description="bands of the signature; one equal band makes a candidate pair")
    hashes_per_bucket: int = Field(ge=1, description="hashes in a band")
    seed: int = Field(ge=0, description="seed of the hash functions")


@dataclass(frozen=True)
class Fingerprint:
    """`digest` identifies the text but for white space; `minhash` holds one string of uint32 hashes a bucket."""

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
    import numpy as np

    digest = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
    signer = _signer(config)
    shingles = np.unique(signer.get_shingles(text)).reshape(-1, 1)
    signature = signer.get_signature(shingles) if shingles.size else []
    return {"digest": digest, "minhash": [np.asarray(bucket, dtype="<u4").tobytes() for bucket in signature]}


def find_duplicates(ranked: Iterable[Fingerprint], min_similarity: float) -> list[Duplicate]:
    """What goes of `ranked`, in which the better of two duplicates comes first.

    A document is a near duplicate if it shares a bucket with a kept document and at least `min_similarity` of the
    hashes. One pass; memory grows with what is kept.
    """
    kept_digests: dict[str, str] = {}
    kept: dict[str, Fingerprint] = {}
    index: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    duplicates: list[Duplicate] = []
    for document in ranked:
        if (twin := kept_digests.get(document.digest)) is not None:
            duplicates.append(Duplicate(document.id, twin, 1.0, exact=True))
            continue
        buckets = list(enumerate(document.minhash))
        candidates = dict.fromkeys(other for bucket in buckets for other in index.get(bucket, ()))
        nearest = max(((similarity(document, kept[other]), other) for other in candidates), default=(0.0, ""))
        if candidates and nearest[0] >= min_similarity:
            duplicates.append(Duplicate(document.id, nearest[1], nearest[0], exact=False))
            continue
        kept_digests[document.digest], kept[document.id] = document.id, document
        for bucket in buckets:
            index[bucket].append(document.id)
    return duplicates


def similarity(left: Fingerprint, right: Fingerprint) -> float:
    """Share of equal hashes: an unbiased estimate of the Jaccard similarity of the two sets of shingles."""
    import numpy as np

    a, b = (np.frombuffer(b"".join(document.minhash), dtype="<u4") for document in (left, right))
    return float((a == b).mean())


@cache
def _signer(config: MinhashConfig) -> Any:
    from datatrove.pipeline.dedup.minhash import MinhashConfig as DatatroveConfig
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.text import TextNormConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class SpacedWords(WordTokenizer):
        """datatrove simplifies the text first (lower case, no punctuation), so words stand between spaces."""

        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError("signatures need words only")

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError("signatures need words only")

    datatrove_config = DatatroveConfig(
        n_grams=config.ngram_words,
        num_buckets=config.buckets,
        hashes_per_bucket=config.hashes_per_bucket,
        seed=config.seed,
        hash_config=HashConfig(precision=32),
        # datatrove would write every number as 0; in mathematics the numbers are what tells two problems apart.
        norm_config=TextNormConfig(norm_numbers=False),
    )
    return MinhashDedupSignature("memory://signatures", datatrove_config, language=SpacedWords())
