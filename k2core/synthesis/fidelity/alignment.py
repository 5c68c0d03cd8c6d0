"""Words of one text compared with those of another by their vectors: what is left out, and what is added.

Every word of the source should have a word of like meaning in the rewrite, and the other way round (greedy matching of
contextual vectors, as in BERTScore, Zhang et al. 2020). A clause that is missing, or was added, is a run of words
without a match; the worst run shows it, where a mean over the text would hide it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from k2core.synthesis.fidelity import facts

RUN = 5
"""Words of a run; a clause is hardly shorter."""

_BLOCK = 4096
"""Words of the source that are compared at a time; all words of a long text would fill the memory."""
Vectors = Mapping[str, tuple[list[str], Any]]


def alignment(source: str, rewrite: str, vectors: Vectors) -> dict[str, float]:
    """`similarity` of the texts' mean vectors, `coverage` of the source's and `support` of the rewrite's worst run.

    Args:
        vectors: `embed_tokens` of the sentences of both.
    """
    import torch

    normalize = torch.nn.functional.normalize
    sides = [_gather(facts.sentences(text), vectors) for text in (source, rewrite)]
    (all_theirs, theirs), (all_ours, ours) = sides
    whole = normalize(all_theirs.mean(0), dim=0) @ normalize(all_ours.mean(0), dim=0)
    best_theirs, best_ours = _best(normalize(theirs, dim=-1), normalize(ours, dim=-1))
    return {"similarity": float(whole), "coverage": _worst_run(best_theirs), "support": _worst_run(best_ours)}


def _best(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """For each unit vector of either side, shapes (n, 384) and (m, 384), its greatest cosine with one of the other."""
    import torch

    rows, columns = [], []
    for block in theirs.split(_BLOCK):
        near = block @ ours.T
        rows.append(near.amax(1))
        columns.append(near.amax(0))
    return torch.cat(rows), torch.stack(columns).amax(0)


def _gather(sentences: Sequence[str], vectors: Vectors) -> tuple[Any, Any]:
    """Vectors of all tokens, and of those that carry meaning (all, where none does)."""
    import torch

    pieces = [piece for sentence in sentences for piece in vectors[sentence][0]]
    everything = torch.cat([vectors[sentence][1] for sentence in sentences])
    content = [i for i, piece in enumerate(pieces) if piece.strip("#").isalnum() and piece not in facts.FUNCTION_WORDS]
    return everything, everything[content] if content else everything


def _worst_run(best: Any) -> float:
    size = min(RUN, len(best))
    return float(best.unfold(0, size, 1).mean(-1).min())
