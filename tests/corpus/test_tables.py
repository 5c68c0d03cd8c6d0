"""A source's documents in tables: cut where a table is full, whole where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.corpus.documents import COLUMNS, document_schema, source_of
from k2core.corpus.sources.tables import Tables
from k2core.corpus.workers import Corpus
from k2core.recipe import read_recipe
from k2core.stage import Job
from k2core.storage import read_table, read_tables, table_names, write_table
from stages import ingest

ROOT = Path(__file__).parents[2]


def rows(sizes: list[int]) -> list[dict[str, Any]]:
    return [{**dict.fromkeys(COLUMNS, "x"), "id": f"a/{i}", "text": "y" * size} for i, size in enumerate(sizes)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 30), st.integers(1, 7))
def test_the_cuts_depend_on_the_documents_alone(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int, batch: int
) -> None:
    out, documents = tmp_path_factory.mktemp("out"), rows(sizes)
    with Tables(out, "a", most) as tables:
        for start in range(0, len(documents), batch):
            tables.add(documents[start : start + batch])
    names = table_names(out)
    found = [read_table(out / name) for name in names]
    assert [row for table in found for row in table] == documents
    sums = [[len(row["text"]) for row in table] for table in found]
    assert all(sum(lengths) >= most > sum(lengths[:-1]) for lengths in sums[:-1]) and sum(sums[-1][:-1]) < most
    assert {source_of(name) for name in names} == {"a"}
    assert names == (["a.parquet"] if len(names) == 1 else [f"a-{i:05}.parquet" for i in range(len(names))])


def test_a_table_that_is_not_cut_has_the_bytes_of_one_that_is_written_at_once(tmp_path: Path) -> None:
    documents = rows([3] * 500)
    with Tables(tmp_path, "a", 2000) as tables:
        tables.add(documents)
    write_table(tmp_path / "b.parquet", documents, document_schema())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_ingest_cuts_built_in_sources_and_files_alike(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"Page {i} says one thing and another."}) + "\n" for i in range(60))
    (tmp_path / "pages.jsonl").write_text(lines)
    recipe = read_recipe(ROOT / "recipes" / "laptop.yaml")["ingest"]
    for name in ("wikipedia", "python", "package_docs"):
        recipe[name]["limit"] = 0
    entry = {
        "name": "pages", "kind": "jsonl", "path": str(tmp_path / "pages.jsonl"), "domain": "web", "license": "CC0-1.0",
        "attribution": "nobody", "language": "en", "limit": None, "columns": {"text": "text"},
    }  # fmt: skip
    figures, found = [], []
    for most in (10**6, 1000):
        content = {**recipe, "mathematics": {**recipe["mathematics"], "limit": 30}, "files": [entry]}
        params = ingest.Params.model_validate({**content, "shard_characters": most})
        job = Job("ingest", tmp_path / "work", None)
        figures.append(ingest.run(params, Corpus(workers=1), tmp_path / str(most), job))
        found.append([row for _, table in read_tables(tmp_path / str(most)) for row in table])
    assert figures[0] == figures[1] and found[0] == found[1]
    assert table_names(tmp_path / "1000000") == ["mathematics.parquet", "pages.parquet"]
    assert {"mathematics-00001.parquet", "pages-00002.parquet"} < set(table_names(tmp_path / "1000"))
