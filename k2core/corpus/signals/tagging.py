"""Tagging: all attributes of a document, computed once; thresholds come later, in curation (after Dolma)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from k2core.corpus.duplicates import dedup
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.signals import code, language, mathematics, pii, prose, repetition
from k2core.corpus.signals.words import split_words
from k2core.corpus.throughput import Pace

COLUMNS = {
    "id": "string",
    **language.COLUMNS,
    **prose.COLUMNS,
    **repetition.COLUMNS,
    **pii.COLUMNS,
    **code.COLUMNS,
    **mathematics.COLUMNS,
    **dedup.COLUMNS,
}


def attribute_schema() -> Any:
    """The pyarrow schema of an attributes' table."""
    import pyarrow as pa

    types = {"list<binary>": pa.list_(pa.binary())}
    return pa.schema([(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def tag(
    document: dict[str, Any], language_characters: int, minhash: MinhashConfig, paces: dict[str, Pace] | None = None
) -> dict[str, Any]:
    """The attributes' row of one row of a documents' table (`id`, `text` and `domain` are read).

    Args:
        paces: family of signals → its pace, to which this document is added.
    """
    text, domain = document["text"], document["domain"]
    words = split_words(text)
    row = {"id": document["id"], **code.NOT_CODE, **mathematics.NOT_MATHEMATICS}
    families: dict[str, Callable[[], dict[str, Any]]] = {
        "language": lambda: language.attributes(text, language_characters),
        "prose": lambda: prose.attributes(text, words, row["language"]),
        "repetition": lambda: repetition.attributes(text, words),
        "pii": lambda: pii.attributes(text),
        "minhash": lambda: dedup.attributes(text, minhash),
    }
    if domain == "code":
        families["code"] = lambda: code.attributes(text)
    if domain == "math":
        families["mathematics"] = lambda: mathematics.attributes(text)
    for family, attributes in families.items():
        started = time.perf_counter()
        row |= attributes()
        if paces is not None:
            paces.setdefault(family, Pace()).add(1, len(text), time.perf_counter() - started)
    return {name: row[name] for name in COLUMNS}
