"""Tagging: all attributes of a document, computed once; thresholds come later, in curation (after Dolma).

The signals are the modules of `k2core/corpus/signals`, found by folder, and the fingerprints of near duplicates.
"""

from __future__ import annotations

import inspect
import time
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

from k2core.corpus.duplicates import dedup
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.throughput import Pace
from k2core.corpus.words import split_words
from k2core.recipe import modules_in
from k2core.storage import read_lines

FINGERPRINTS = "minhash"
SET_ASIDE = ".set_aside.jsonl"
GIVEN = ("text", "words", "language_characters")
"""What a signal may ask for besides another signal's columns; these names come first."""


_FOUND = modules_in("k2core.corpus.signals")
ASKED = {name: list(inspect.signature(signal.attributes).parameters) for name, signal in _FOUND.items()}
"""Signal → what it asks for, by name."""


def _in_order() -> dict[str, ModuleType]:
    """The signals, each after those whose columns it asks for."""
    of_column = {column: name for name, signal in _FOUND.items() for column in signal.COLUMNS}
    behind = {name: {of_column[one] for one in asked if one not in GIVEN} for name, asked in ASKED.items()}
    return {name: _FOUND[name] for name in TopologicalSorter(behind).static_order()}


SIGNALS = _in_order()
COLUMNS: dict[str, str] = {"id": "string"}
for _signal in (*SIGNALS.values(), dedup):
    COLUMNS |= _signal.COLUMNS


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
        paces: signal → its pace, to which this document is added.
    """
    text = document["text"]
    known: dict[str, Any] = dict(zip(GIVEN, (text, split_words(text), language_characters), strict=True))
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"id": document["id"]}
    for name, signal in SIGNALS.items():
        if getattr(signal, "DOMAIN", document["domain"]) != document["domain"]:
            continue
        started = time.perf_counter()
        row |= signal.attributes(**{asked: known[asked] if asked in known else row[asked] for asked in ASKED[name]})
        _add(paces, name, text, started)
    started = time.perf_counter()
    row |= dedup.attributes(text, minhash)
    _add(paces, FINGERPRINTS, text, started)
    return row


def tag_or_reason(
    document: dict[str, Any], language_characters: int, minhash: MinhashConfig, paces: dict[str, Pace] | None = None
) -> tuple[dict[str, Any], str]:
    """`tag`, and why it failed; a document that a signal fails on has the attributes of an empty text."""
    try:
        return tag(document, language_characters, minhash, paces), ""
    except Exception as error:  # noqa: BLE001 (whatever a text can do to a signal ends that text alone)
        return tag({**document, "text": ""}, language_characters, minhash), f"{type(error).__name__}: {error}"[:300]


def untagged(attributes: Path, name: str) -> dict[str, str]:
    """`id` → why a signal failed, for the documents of table `name` that `tag` set aside."""
    path = attributes / f"{Path(name).stem}{SET_ASIDE}"
    return {row["id"]: row["reason"] for row in read_lines(path, ["id", "reason"])} if path.exists() else {}


def _add(paces: dict[str, Pace] | None, name: str, text: str, started: float) -> None:
    if paces is not None:
        paces.setdefault(name, Pace()).add(1, len(text), time.perf_counter() - started)
