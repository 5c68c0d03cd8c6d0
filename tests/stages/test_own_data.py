"""`check` finds entries of `ingest.files` that can give no document, and leaves to `ingest` what it sets aside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_checks import OWN, at_root, faults_of, put

from stages.needs import ingest

__all__ = ["at_root"]  # the fixture: the current folder is a project with a file of one's own
KIND = "set `kind` to what the file is: jsonl (one JSON object per line), parquet, text, warc, or huggingface"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, at_root: None) -> None:
    own = tmp_path / "own"
    for name in ("empty", "nested/empty", "table", "mixed"):
        (own / name).mkdir(parents=True)
    for name in ("a.csv", "table/a.csv", "mixed/a.csv"):
        (own / name).write_text("text,year\none,1\n")
    (own / "mixed/b.jsonl").write_text('{"text": "one"}\n')
    (own / "late.jsonl").write_text("\n" + '{"text": ""}\n' * 900 + '{"text": "one"}\n')
    (own / "list.json").write_text('[{"text": "one"},\n{"text": "two"}]\n')
    (own / "void.jsonl").write_text("")
    (own / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n')[:-9])
    (own / "cut.parquet").write_bytes(b"PAR1" + bytes(100))
    (own / "picture.txt").write_bytes(b"\xff\xd8\xff\xe0")
    pq.write_table(pa.table({"text": [1, 2], "body": ["one", "two"]}), own / "numbers.parquet")


def entry(path: str, kind: str = "jsonl", **more: Any) -> dict[str, Any]:
    return OWN | {"path": path, "kind": kind} | more


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (
            entry("own/a.jsonl", columns={"text": "txet"}),
            "own/a.jsonl, row 1: no column txet (did you mean text?); it has text; correct `columns`",
        ),
        (
            entry("own/a.jsonl", columns={"text": "text", "id": "key"}),
            "own/a.jsonl, row 1: no column key; it has text; correct `columns`",
        ),
        (
            entry("own/numbers.parquet", "parquet", columns={"text": "bodi", "license": "rights"}),
            "own/numbers.parquet: no column bodi (did you mean body?), rights; it has text, body; correct `columns`",
        ),
        (
            entry("own/numbers.parquet", "parquet"),
            "own/numbers.parquet, row 1: no text (a int), read as parquet; correct `path` or `columns`",
        ),
        (entry("own/a.csv"), "own/a.csv, row 1: not a JSON object ("),
        (entry("own/a.csv"), f"(char 0)), read as jsonl; {KIND}"),
        (entry("own/list.json"), "own/list.json, row 1: not a JSON object ("),
        (entry("own/cut.parquet", "parquet"), "own/cut.parquet: corrupt ("),
        (entry("own/cut.parquet", "parquet"), KIND),
        (entry("own/cut.parquet", "warc"), "own/cut.parquet: corrupt ("),
        (entry("own/torn.jsonl.gz"), "own/torn.jsonl.gz: corrupt ("),
        (entry("own/picture.txt", "text"), "own/picture.txt, row 1: bad UTF-8 ("),
        (entry("own/void.jsonl"), "own/void.jsonl: empty shard (there is nothing in it), read as jsonl; correct"),
        (entry("own/empty"), "there is no file in own/empty; put files there or correct `path`"),
        (entry("own/empty/**"), "own/empty/**"),
        (entry("own/nested/**"), "own/nested/**"),
        (entry("own/nested"), "path own/nested is a folder; say which files in it, e.g. own/nested/**"),
        (entry("own/empty", "huggingface"), "own/empty cannot be loaded ("),
        (entry("own/table", "huggingface", columns={"text": "body"}), "no column body; it has text, year"),
    ],
)  # fmt: skip
def test_an_entry_that_gives_no_document_is_one_sentence(tmp_path: Path, own: dict[str, Any], sentence: str) -> None:
    (fault,) = faults_of(tmp_path, put("ingest.files", [own]))
    assert fault.startswith("ingest.files: own: ") and sentence in fault and "\n" not in fault


def test_all_entries_are_looked_at(tmp_path: Path) -> None:
    wrong = [entry("own/a.csv"), entry("own/cut.parquet", "parquet"), entry("own/empty"), entry("own/none")]
    named = [one | {"name": f"own{number}"} for number, one in enumerate([*wrong, entry("own/a.jsonl")])]
    faults = faults_of(tmp_path, put("ingest.files", named))
    assert [fault.split(": ")[1] for fault in faults] == ["own0", "own1", "own2", "own3"]


def test_a_place_may_be_written_as_an_address(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, put("ingest.files", [entry(f"file://{tmp_path}/own/a.csv")]))
    assert "not a JSON object" in fault


@pytest.mark.parametrize(
    "own",
    [
        entry("own/a.csv", limit=0),
        entry("own/mixed/*"),
        entry("own/late.jsonl"),
        entry("own/table", "huggingface"),
        entry("own/a.csv", "text"),
        entry("own/numbers.parquet", "parquet", columns={"text": "body"}),
    ],
)
def test_what_ingest_can_use_or_sets_aside_is_no_fault(tmp_path: Path, own: dict[str, Any]) -> None:
    assert faults_of(tmp_path, put("ingest.files", [own])) == []


def test_no_more_than_the_head_of_a_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "BYTES", 40)
    with (tmp_path / "own" / "long.jsonl").open("w") as file:
        file.write(json.dumps([{"text": "one"}] * 9) + "\n")
        file.write('{"text": "beyond"}\n')
    (fault,) = faults_of(tmp_path, put("ingest.files", [entry("own/long.jsonl")]))
    assert "own/long.jsonl, row 1: not a JSON object" in fault
