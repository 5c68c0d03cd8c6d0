"""Duplicates and repeated paragraphs in one pass over a list in memory: the rule in its shortest form.

What curation finds through files must be equal to what these find.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from k2core.corpus.duplicates.paragraphs import ParagraphConfig

Row = dict[str, Any]


def ranked(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["quality"], row["id"]))


def duplicates(rows: Iterable[Row], min_similarity: float) -> dict[str, tuple[str, float, bool]]:
    """`id` → (id of the kept document that it repeats, similarity, whether it is an exact duplicate)."""
    digests: dict[str, str] = {}
    kept: dict[str, np.ndarray] = {}
    index: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    found = {}
    for row in ranked(rows):
        if (twin := digests.get(row["digest"])) is not None:
            found[row["id"]] = twin, 1.0, True
            continue
        buckets, hashes = list(enumerate(row["minhash"])), np.frombuffer(b"".join(row["minhash"]), "<u4")
        candidates = {other for bucket in buckets for other in index.get(bucket, ())}
        shares = [(int(np.count_nonzero(hashes == kept[other])) / len(hashes), other) for other in candidates]
        if shares and max(shares)[0] >= min_similarity:
            share, nearest = max(shares)
            found[row["id"]] = nearest, share, False
            continue
        digests[row["digest"]], kept[row["id"]] = row["id"], hashes
        for bucket in buckets:
            index[bucket].append(row["id"])
    return found


def repeats(rows: Iterable[Row], config: ParagraphConfig) -> dict[str, tuple[str, float, bool, str, str]]:
    """`id` → (text that is left, share that is lost, whether the document goes, first repeated paragraph, whose)."""
    owner: dict[bytes, str] = {}
    found = {}
    for row in ranked(rows):
        parts = re.split(r"(\n\s*\n)", row["text"])
        new: dict[bytes, str] = {}
        kept, lost, first = [], 0, ("", "")
        for paragraph, gap in zip(parts[::2], [*parts[1::2], ""], strict=True):
            plain = " ".join(paragraph.split())
            key = hashlib.sha256(plain.encode()).digest() if len(plain) >= config.min_characters else None
            whose = owner.get(key) or new.get(key) if key else None
            if whose is None:
                kept.append(paragraph + gap)
                if key:
                    new[key] = row["id"]
            else:
                lost += len(paragraph)
                first = first if first[1] else (paragraph, whose)
        goes = False
        if lost:
            rest, share = "".join(kept).strip(), lost / len(row["text"])
            goes = share > config.max_share or not rest
            found[row["id"]] = rest, round(share, 4), goes, *first
        if not goes:
            owner |= new
    return found
