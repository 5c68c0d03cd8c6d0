"""First step, per shard: the rules, and what the next step compares of the documents that pass them.

A candidate's place is its number among those of its shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2core.corpus import curation
from k2core.corpus.curation import FOREIGN, UNTAGGED, CurationConfig, Rejection
from k2core.corpus.documents import COLUMNS, read_beside
from k2core.corpus.duplicates import fingerprints, repeated
from k2core.corpus.tagging import COLUMNS as ATTRIBUTES
from k2core.corpus.tagging import untagged
from k2core.corpus.workers import Watch
from k2core.storage import publish, read_columns, read_table, write_table

Row = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The folders of documents' tables and of the tables beside them."""

    documents: Path
    attributes: Path
    quality: Path


@dataclass(frozen=True)
class Ruling:
    """The work on a documents' table, called with its name: `write_candidates` into its folder of `folders`."""

    inputs: Inputs
    config: CurationConfig
    folders: Mapping[str, Path]

    def __call__(self, name: str, watch: Watch) -> None:
        write_candidates(name, self.inputs, self.config, self.folders[name], watch)


def write_candidates(name: str, inputs: Inputs, config: CurationConfig, folder: Path, watch: Watch) -> None:
    """Publish `folder` for the documents' table `name`: `candidates.parquet` (row, domain, quality, split),
    `rejected.parquet` (row and rejection), fingerprints and paragraphs.
    """
    table = read_columns(inputs.documents / name, COLUMNS).select(["id", "text", "domain"])
    rows = table.to_pylist()
    tags = read_beside(inputs.attributes, name, rows, ATTRIBUTES, "tag")
    aside = untagged(inputs.attributes, name)
    scores = read_beside(inputs.quality, name, rows, ["id", "quality"], "grade")
    passed: list[Row] = []
    rejected: list[Row] = []
    for number, (row, tag, score) in enumerate(zip(rows, tags, scores, strict=True)):
        watch.at(row["id"])
        if rejection := _rejection(row, tag, aside.get(row["id"], ""), config):
            rejected.append({"row": number, **vars(rejection)})
        else:
            compared = {name: tag[name] for name in ("digest", "minhash")}
            passed.append(
                {**row, **compared, "row": number, "quality": score["quality"], "split": _split(row, tag, config)}
            )
    watch.at("")
    with publish(folder) as scratch:
        fingerprints.spill(scratch, passed)
        texts = [(place, row["text"]) for place, row in enumerate(passed) if row["domain"] in config.paragraphs.domains]
        repeated.spill(scratch, texts, config.paragraphs.min_characters)
        write_table(scratch / "candidates.parquet", passed, _candidates())
        write_table(scratch / "rejected.parquet", rejected, _rejected())


def read_candidates(folder: Path) -> tuple[list[Row], dict[int, Rejection]]:
    """The candidates of a shard (`row`, `domain`, `quality`, `split`) in order; rejections of its other rows."""
    rejected = {row.pop("row"): Rejection(**row) for row in read_table(folder / "rejected.parquet")}
    return read_table(folder / "candidates.parquet"), rejected


def _rejection(row: Row, tag: Row, aside: str, config: CurationConfig) -> Rejection | None:
    if aside:
        return Rejection(UNTAGGED, 0.0, passage=aside)
    rules = config.rules.get(row["domain"])
    return curation.judge(rules, tag, config.translate_from) if rules else None


def _split(row: Row, tag: Row, config: CurationConfig) -> str:
    if curation.is_foreign(config.rules.get(row["domain"]), tag["language"], config.translate_from):
        return FOREIGN
    return curation.split_of(row["id"], config.heldout_fraction)


def _candidates() -> Any:
    import pyarrow as pa

    texts = (("domain", pa.string()), ("split", pa.string()))
    return pa.schema([("row", pa.int64()), ("quality", pa.float64()), *texts])


def _rejected() -> Any:
    import pyarrow as pa

    texts = (("reason", pa.string()), ("score", pa.float64()), ("matched", pa.string()), ("passage", pa.string()))
    return pa.schema([("row", pa.int64()), *texts])
