"""Tagging: all attributes of a document, computed once; thresholds come later, in curation (after Dolma)."""

from __future__ import annotations

from typing import Any

from k2core.corpus import dedup
from k2core.corpus.dedup import MinhashConfig
from k2core.corpus.filters import code, language, quality, repetition
from k2core.corpus.filters.words import split_words

COLUMNS = {
    "id": "string",
    **language.COLUMNS,
    **quality.COLUMNS,
    **repetition.COLUMNS,
    **code.COLUMNS,
    **dedup.COLUMNS,
}


def attribute_schema() -> Any:
    """The pyarrow schema of an attributes' table."""
    import pyarrow as pa

    types = {"list<binary>": pa.list_(pa.binary())}
    return pa.schema([(name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def tag(document: dict[str, Any], language_characters: int, minhash: MinhashConfig) -> dict[str, Any]:
    """The attributes' row of one row of a documents' table (`id`, `text` and `domain` are read)."""
    text = document["text"]
    words = split_words(text)
    return {
        "id": document["id"],
        **language.attributes(text, language_characters),
        **quality.attributes(text, words),
        **repetition.attributes(text, words),
        **(code.attributes(text) if document["domain"] == "code" else code.NOT_CODE),
        **dedup.attributes(text, minhash),
    }
