"""Which documents the token shards hold, and in which order: `tokenize` writes by it, lineage finds documents by it.

Rephrased documents train beside their sources, in the source's domain and with its quality and rate. Questions with
answers, and recall documents, are domains of their own, of which nothing is held out. The order is random but fixed, so
that any first part of a shard is a fair sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from k2core.data.rows.shards import SPLITS
from k2core.storage import read_table

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

QUESTIONS, RECALL = "qa", "recall"
"""The shards' domains of questions with answers, and of documents that can only be continued by reading back."""
_CHUNK = 1000


class Text(NamedTuple):
    """A document's id and text, its score, and how often it comes in an epoch."""

    id: str
    text: str
    quality: float
    rate: float


def in_order(curated: Path, rephrased: Path, questions: Path, recall: Path) -> dict[tuple[str, str], list[Text]]:
    """(split, domain) → its documents in the order of its shard.

    Raises:
        StorageError: one of the folders has no table of documents.
    """
    groups: dict[tuple[str, str], list[Text]] = {}
    sources: dict[str, tuple[float, float]] = {}
    for row in read_table(curated / "documents.parquet", ["id", "text", "domain", "split", "quality", "rate"]):
        sources[row["id"]] = row["quality"], row["rate"]
        if row["split"] in SPLITS:  # others wait for their translation
            text = Text(row["id"], row["text"], row["quality"], row["rate"])
            groups.setdefault((row["split"], row["domain"]), []).append(text)
    for row in read_table(rephrased / "documents.parquet", ["id", "text", "domain", "origin"]):
        text = Text(row["id"], row["text"], *sources.get(row["origin"], (1.0, 1.0)))
        groups.setdefault(("train", row["domain"]), []).append(text)
    for domain, folder in ((QUESTIONS, questions), (RECALL, recall)):
        if made := read_table(folder / "documents.parquet", ["id", "text"]):
            groups["train", domain] = [Text(row["id"], row["text"], 1.0, 1.0) for row in made]
    for (split, domain), texts in groups.items():
        Random(f"tokenize/{split}/{domain}").shuffle(texts)
    return dict(sorted(groups.items()))


def encoded(texts: Iterable[Text], tokenizer: Tokenizer, most: int | None) -> Iterator[tuple[Text, list[int] | None]]:
    """Each text with its token ids, or with None if it does not fit into what is left of `most` tokens.

    Args:
        most: tokens of all that fit, end marks counted; None: no limit. Shorter texts may still fit after a long one.
    """
    waiting, left = list(texts), most
    for start in range(0, len(waiting), _CHUNK):
        chunk = waiting[start : start + _CHUNK]
        for text, ids in zip(chunk, tokenizer.encode_batch([text.text for text in chunk]), strict=True):
            fits = left is None or left >= len(ids) + 1
            yield text, ids if fits else None
            if fits and left is not None:
                left -= len(ids) + 1
