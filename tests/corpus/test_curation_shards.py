"""Curation shard by shard: the same bytes for any number of shards, and after a kill at any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from in_memory import duplicates, repeats
from test_curation import ONE, PARAMS, corpus, document, prepared, sentence, tasks_in, unruly_corpus

from k2core.corpus.documents import document_schema
from k2core.corpus.steps import candidates, select
from k2core.corpus.steps import repeats as repeats_step
from k2core.corpus.tagging import attribute_schema
from k2core.corpus.workers import Corpus
from k2core.stage import Job
from k2core.storage import parquet, read_table, write_table
from stages import curate

Folders = tuple[Path, Path, Path]
FILES = ("documents.parquet", "rejected.parquet", "funnel.json")


def rows() -> list[dict[str, Any]]:
    """Every reason to go, and near duplicates: long texts with a word changed."""
    rows = corpus() + [row for row in unruly_corpus() if row["id"] not in {row["id"] for row in corpus()}]
    long = [" ".join(sentence(1000 + 20 * i + j) for j in range(8)) for i in range(6)]
    rows += [document(f"long{i}", text) for i, text in enumerate(long)]
    return rows + [document(f"like{i}", text.replace("river", "stream", 1)) for i, text in enumerate(long)]


def sharded(folders: Folders, count: int, root: Path) -> Folders:
    """The tables of `folders` in `count` shards each."""
    import pyarrow.parquet as pq

    for folder in folders:
        table = pq.read_table(folder / "a.parquet")
        cuts = [table.num_rows * part // count for part in range(count + 1)]
        (root / folder.name).mkdir(parents=True)
        for part, (start, end) in enumerate(pairwise(cuts)):
            pq.write_table(table.slice(start, end - start), root / folder.name / f"a-{part:05}.parquet")
    documents, attributes, quality = (root / folder.name for folder in folders)
    return documents, attributes, quality


def outcome(folders: Folders, root: Path, used: Corpus = ONE) -> tuple[dict[str, float], list[bytes]]:
    job = Job("curate", root / "scratch", None)
    figures = curate.run(PARAMS, used, *folders, tasks_in(root), root / "out", job)
    return figures, [(root / "out" / name).read_bytes() for name in FILES]


def test_the_same_bytes_for_any_number_of_shards(tmp_path: Path) -> None:
    whole = prepared(tmp_path, rows())
    expected = outcome(whole, tmp_path / "whole")
    reasons = {row["reason"] for row in read_table(tmp_path / "whole" / "out" / "rejected.parquet")}
    assert {"exact_duplicate", "near_duplicate", "duplicate_paragraphs", "contaminated", "words"} <= reasons
    for count in (1, 3, 8):
        root = tmp_path / str(count)
        assert outcome(sharded(whole, count, root), root) == expected


def test_what_repeats_is_what_one_pass_in_memory_finds(tmp_path: Path) -> None:
    folders = prepared(tmp_path, rows())
    outcome(sharded(folders, 3, tmp_path / "3"), tmp_path / "3")
    kept, rejected = (read_table(tmp_path / "3" / "out" / name) for name in FILES[:2])
    scores = {row["id"]: row["quality"] for row in read_table(folders[2] / "a.parquet")}
    by_rule = {row["id"] for row in rejected if not row["matched"]}
    tags = [row for row in read_table(folders[1] / "a.parquet") if row["id"] not in by_rule]
    twins = duplicates([{**row, "quality": scores[row["id"]]} for row in tags], PARAMS.min_similarity)
    found = {row["id"]: row for row in rejected if row["reason"].endswith("_duplicate")}
    assert {name: (row["matched"], row["score"]) for name, row in found.items()} == {
        name: twin[:2] for name, twin in twins.items()
    }
    left = [
        {**row, "quality": scores[row["id"]]}
        for row in read_table(folders[0] / "a.parquet")
        if row["id"] not in by_rule | set(twins) and row["domain"] == "knowledge"
    ]
    cut = repeats(left, PARAMS.paragraphs)
    gone = {row["id"]: row for row in rejected if row["reason"] == "duplicate_paragraphs"}
    assert {name: (row["score"], row["passage"], row["matched"]) for name, row in gone.items()} == {
        name: (share, first, of) for name, (_, share, goes, first, of) in cut.items() if goes
    }
    texts = {row["id"]: row["text"] for row in kept}
    assert all(texts[name] == text for name, (text, _, goes, *_) in cut.items() if not goes and name in texts)


@pytest.mark.parametrize(
    ("module", "name", "done"),
    [
        (candidates.repeated, "spill", 2), (repeats_step, "write_repeats", 0), (select, "spill", 1),
        (curate, "write_passages", 0), (select, "write_json", 1), (select, "read_columns", 2),
    ],
)  # fmt: skip
def test_a_killed_run_goes_on_from_the_finished_shards(
    module: Any, name: str, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepared(tmp_path, rows())
    expected = outcome(whole, tmp_path / "whole")
    folders = sharded(whole, 4, tmp_path / "4")
    work, calls = getattr(module, name), []

    def counted(limit: int | None) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(name)
            return work(*args, **keywords)

        return call

    monkeypatch.setattr(module, name, counted(done))
    with pytest.raises(KeyboardInterrupt):
        outcome(folders, tmp_path / "4")
    assert not (tmp_path / "4" / "out" / "documents.parquet").exists()
    monkeypatch.setattr(module, name, counted(None))
    assert outcome(folders, tmp_path / "4") == expected
    once = {"spill": 4, "write_repeats": 1, "write_passages": 1, "write_json": 4}
    assert len(calls) == once.get(name, done + 4), "a finished shard was done again"


def test_row_groups_end_where_they_end_for_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(parquet, "GROUP_ROWS", 7)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1500)
    whole = prepared(tmp_path, [*rows(), document("book", " ".join(map(sentence, range(9000, 9100))))])
    expected = outcome(whole, tmp_path / "whole")
    assert outcome(sharded(whole, 5, tmp_path / "5"), tmp_path / "5") == expected
    file = pq.ParquetFile(tmp_path / "5" / "out" / "documents.parquet")
    groups = [file.read_row_group(number).to_pylist() for number in range(file.num_row_groups)]
    assert len(groups) > 10 and all(1 <= len(group) <= 7 for group in groups)
    assert json.loads((tmp_path / "5" / "out" / "funnel.json").read_text())[-1]["documents"] == sum(map(len, groups))


def test_an_empty_shard_changes_nothing(tmp_path: Path) -> None:
    import pyarrow as pa

    whole = prepared(tmp_path, rows())
    expected = outcome(whole, tmp_path / "whole")
    schemas = document_schema(), attribute_schema(), pa.schema([("id", pa.string()), ("quality", pa.float64())])
    for folder, schema in zip(whole, schemas, strict=True):
        write_table(folder / "b.parquet", [], schema)
    assert outcome(whole, tmp_path / "empty") == expected
