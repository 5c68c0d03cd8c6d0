"""Third step: training documents that hold passages of evaluation or held-out text go; the rest is written, with rates.

Shapes: N documents of a shard, M training documents of a domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from k2core.corpus import curation
from k2core.corpus.curation import (
    CONTAMINATED,
    EXACT,
    FOREIGN,
    HELDOUT,
    NEAR,
    PARAGRAPHS,
    TRAIN,
    Contamination,
    CurationConfig,
    Found,
    Funnel,
    Rejection,
)
from k2core.corpus.documents import COLUMNS, DOMAINS, document_schema
from k2core.corpus.duplicates.passages import spill
from k2core.corpus.steps.repeats import Left, Leftovers
from k2core.corpus.workers import Watch
from k2core.storage import parse_json, publish, read_columns, stream_table, write_json

_CHOSEN = (("quality", "double"), ("rate", "double"), ("split", "string"))
_WHY = (("reason", "string"), ("score", "double"), ("matched", "string"), ("passage", "string"))


@dataclass(frozen=True)
class HeldOut:
    """The work on a documents' table, called with its name: its held-out documents' passages, into its folder."""

    leftovers: Leftovers
    ngram_words: int
    folders: Mapping[str, Path]

    def __call__(self, name: str, watch: Watch) -> None:
        def texts() -> Iterator[tuple[str, str]]:
            for row in self.leftovers.of(name).kept:
                if row["split"] == HELDOUT:
                    watch.at(row["id"])
                    yield row["id"], row["text"]
            watch.at("")

        with publish(self.folders[name]) as scratch:
            spill(scratch, texts(), self.ngram_words)


@dataclass(frozen=True)
class Looking:
    """The work on a documents' table, called with its name: what its training documents share with `passages`.

    Args:
        passages: the folder of `curation.write_passages`.
        files: name of a documents' table → the file that is written.
    """

    leftovers: Leftovers
    passages: Path
    files: Mapping[str, Path]

    def __call__(self, name: str, watch: Watch) -> None:
        found = Contamination(self.passages).look(_training(self.leftovers.of(name)))
        items = {str(row): vars(rejection) for row, rejection in found.items.items()}
        write_json(self.files[name], {"items": items, "suspects": found.suspects, "seen": list(found.seen.items())})


def _read_found(path: Path) -> Found[int]:
    content = parse_json(path.read_text(encoding="utf-8"))
    items = {int(row): Rejection(**rejection) for row, rejection in content["items"].items()}
    return Found(items, content["suspects"], Counter(dict(content["seen"])))


def _training(left: Left) -> list[tuple[int, str]]:
    return [(row["row"], row["text"]) for row in left.kept if row["split"] == TRAIN]


@dataclass
class Selected:
    """What the figures of curation are made of.

    Attributes:
        documents, characters, qualities, rates: of what is kept, by domain; the last two table by table.
        cut: documents that lost paragraphs.
    """

    funnel: Funnel = field(default_factory=Funnel)
    splits: Counter[str] = field(default_factory=Counter)
    documents: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    qualities: dict[str, list[np.ndarray]] = field(default_factory=lambda: {domain: [] for domain in DOMAINS})
    rates: dict[str, list[np.ndarray]] = field(default_factory=lambda: {domain: [] for domain in DOMAINS})
    cut: int = 0

    def add(
        self, table: Any, left: Left, rejections: Mapping[int, Rejection], kept: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count a table's documents: what is `left` before decontamination, what is `kept`, and all `rejections`."""
        import pyarrow.compute as pc

        sizes, funnel = pc.utf8_length(table["text"]).to_pylist(), self.funnel
        after = {row["row"]: len(row["text"]) for row in left.kept}
        funnel.ingested = funnel.ingested[0] + len(sizes), funnel.ingested[1] + sum(sizes)
        funnel.cut += sum(sizes[row] - after[row] for row in left.cut)
        self.cut += len(left.cut)
        for row, rejection in rejections.items():
            funnel.took(rejection.reason, after.get(row, sizes[row]))
        self.splits.update(row["split"] for row in kept)
        for domain in DOMAINS:
            own = [row for row in kept if row["domain"] == domain]
            self.documents[domain] += len(own)
            self.characters[domain] += sum(after[row["row"]] for row in own)
            self.qualities[domain].append(np.array([row["quality"] for row in own]))
            self.rates[domain].append(np.array([row["rate"] for row in own]))

    def figures(self) -> dict[str, float]:
        documents, kept = self.funnel.ingested[0], sum(self.documents.values())
        figures = {
            "documents": float(documents),
            "kept": float(kept),
            "kept_share": kept / documents,
            "heldout": float(self.splits[HELDOUT]),
            "foreign": float(self.splits[FOREIGN]),
            "characters": float(sum(self.characters.values())),
        }
        for domain in DOMAINS:
            count = self.documents[domain]
            figures |= {f"kept/{domain}": float(count), f"characters/{domain}": float(self.characters[domain])}
            if count:
                figures[f"mean_quality/{domain}"] = _sum(self.qualities[domain]) / count
                figures[f"mean_rate/{domain}"] = _sum(self.rates[domain]) / count
        gone = dict.fromkeys((EXACT, NEAR, PARAGRAPHS, CONTAMINATED), 0)
        gone |= {reason: taken[0] for reason, taken in self.funnel.gone.items()}
        return figures | {f"rejected/{reason}": float(count) for reason, count in sorted(gone.items())}


def write_selected(
    leftovers: Leftovers, files: Mapping[str, Path], search: Contamination, config: CurationConfig, out: Path
) -> Selected:
    """Write `documents.parquet` and `rejected.parquet` into `out`, in the order of the documents' tables.

    Args:
        files: name of a documents' table → what was found in it.
    """
    gone, training = _judged(leftovers, files, search)
    selected = Selected()
    with (
        stream_table(out / "documents.parquet", document_schema(*_CHOSEN)) as write_kept,
        stream_table(out / "rejected.parquet", document_schema(*_WHY)) as write_rejected,
    ):
        for name, more in gone.items():
            table, left = read_columns(leftovers.documents / name, COLUMNS), leftovers.of(name)
            rejections = left.rejections | more
            kept = [row for row in left.kept if row["row"] not in more]
            for row, rate in zip(kept, _rates(kept, training, config), strict=True):
                row["rate"] = rate
            write_kept(_with(table, [row["row"] for row in kept], kept, [("text", "string"), *_CHOSEN]))
            rejected = sorted(rejections)
            write_rejected(_with(table, rejected, [vars(rejections[row]) for row in rejected], _WHY))
            selected.add(table, left, rejections, kept)
    return selected


def _judged(
    leftovers: Leftovers, files: Mapping[str, Path], search: Contamination
) -> tuple[dict[str, dict[int, Rejection]], dict[str, np.ndarray]]:
    """The contaminated documents of each table, and the rising qualities of what is trained on by domain."""
    seen: Counter[int] = Counter()
    for path in files.values():
        seen.update(_read_found(path).seen)
    gone: dict[str, dict[int, Rejection]] = {}
    qualities: dict[str, list[np.ndarray]] = {domain: [] for domain in DOMAINS}
    for name, path in files.items():
        left, found = leftovers.of(name), _read_found(path)
        found.seen = seen
        gone[name] = search.rejections(_training(left), found)
        for domain, values in qualities.items():
            own = (row for row in left.kept if row["split"] == TRAIN and row["row"] not in gone[name])
            values.append(np.array([row["quality"] for row in own if row["domain"] == domain]))
    return gone, {domain: np.sort(np.concatenate(values)) for domain, values in qualities.items()}


def _with(
    table: Any, rows: Sequence[int], values: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]
) -> Any:
    """Those rows of a pyarrow `table` with `columns` (name, type) of `values`, one for each row."""
    import pyarrow as pa

    taken = table.take(pa.array(rows, pa.int64()))
    for name, kind in columns:
        column = pa.array([value[name] for value in values], kind)
        if name in taken.schema.names:
            taken = taken.set_column(taken.schema.names.index(name), name, column)
        else:
            taken = taken.append_column(name, column)
    return taken


def _rates(
    kept: Sequence[Mapping[str, Any]], training: Mapping[str, np.ndarray], config: CurationConfig
) -> list[float]:
    """Of each document: by quality within the domain for what is trained on, 1 for the rest."""
    rates = [1.0] * len(kept)
    for domain, among_M in training.items():
        own = [place for place, row in enumerate(kept) if row["split"] == TRAIN and row["domain"] == domain]
        quality_N = np.array([kept[place]["quality"] for place in own])
        for place, rate in zip(own, curation.rates(quality_N, among_M, config.sampling), strict=True):
            rates[place] = rate
    return rates


def _sum(parts: Sequence[np.ndarray]) -> float:
    """The sum of the values one after the other: equal for any number of shards."""
    return sum(chain.from_iterable(part.tolist() for part in parts))
