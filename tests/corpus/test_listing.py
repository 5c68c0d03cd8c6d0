"""Lists of files, as Common Crawl publishes them: what they name is found, watched and read, or it is said why not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from k2core.corpus.sources import collection, reading, watch
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.listing import list_files
from k2core.corpus.workers import Corpus
from k2core.stage import Job
from k2core.storage import StorageError, read_table
from stages.needs.ingest import _is_here

ONE = Corpus(workers=1)
CRAWL = "crawl-data/CC-MAIN-2025-51"


def source(path: Path | str, **more: Any) -> FileSource:
    given = {"name": "crawl", "kind": "jsonl", "domain": "web", "license": "x", "attribution": "y", "limit": None}
    return FileSource(**{**given, "path": str(path), **more})


def put(key: str, content: bytes) -> None:
    import boto3

    boto3.client("s3").put_object(Bucket="checkpoints", Key=key, Body=content)


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


@pytest.fixture
def crawl(bucket: str) -> str:
    """A crawl of three files in two segments, of which the list names two, the later one first."""
    for segment, name in ((1, "a"), (1, "b"), (2, "c")):
        put(f"{CRAWL}/segments/{segment}/warc/{name}.jsonl", line(f"text {name}"))
    listed = [f"{CRAWL}/segments/2/warc/c.jsonl", f"{CRAWL}/segments/1/warc/a.jsonl"]
    put(f"{CRAWL}/warc.paths.gz", gzip.compress("\n".join([*listed, ""]).encode()))
    return f"{bucket}/{CRAWL}/warc.paths.gz"


def test_the_list_of_a_crawl_is_its_files_in_its_order(crawl: str, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    collection.collect(source(crawl), tmp_path / "out", 2**28, ONE, Job("ingest", tmp_path / "scratch", None))
    rows = read_table(tmp_path / "out" / "crawl.parquet", ["id", "text", "origin"])
    assert [row["text"] for row in rows] == ["text c", "text a"]
    assert rows[0]["origin"] == f"{bucket}/{CRAWL}/segments/2/warc/c.jsonl#1"
    assert rows[0]["id"] == f"crawl/{CRAWL}/segments/2/warc/c.jsonl/1"


def test_a_listed_object_that_changes_is_seen_and_no_other(crawl: str, tmp_path: Path) -> None:
    def state() -> dict[str, Any]:
        return watch.state_of(source(crawl), tmp_path / "seen.sqlite", Job("sources", tmp_path, None))

    first = state()
    assert first["objects"] == 2 and "trusted" not in first
    put(f"{CRAWL}/segments/1/warc/b.jsonl", line("not in the list"))
    assert state() == first
    put(f"{CRAWL}/segments/1/warc/a.jsonl", line("another"))
    assert state()["etags"] != first["etags"]


def test_each_folder_is_asked_for_once(crawl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crawl has 90,000 files in 100 folders."""
    import s3fs

    asked: list[str] = []
    for name in ("_ls", "_info"):

        async def spied(
            self: Any, path: str, *rest: Any, real: Any = getattr(s3fs.S3FileSystem, name), **more: Any
        ) -> Any:
            asked.append(path)
            return await real(self, path, *rest, **more)

        monkeypatch.setattr(s3fs.S3FileSystem, name, spied)
    names = [f"{CRAWL}/segments/1/warc/{name}.jsonl" for name in "ab"]
    put(f"{CRAWL}/two.paths", "\n".join(names).encode())
    assert len(list_files(source(crawl.replace("warc.paths.gz", "two.paths")))) == 2
    assert asked == [f"checkpoints/{CRAWL}/two.paths", f"checkpoints/{CRAWL}/segments/1/warc"]


def test_a_list_on_disk_names_files_beside_it_and_objects_elsewhere(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("in/a.jsonl", line("far"))
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "b.jsonl").write_bytes(line("near"))
    (tmp_path / "in" / "both.paths").write_text(f"sub/b.jsonl\n\n{bucket}/in/a.jsonl\nsub/b.jsonl\n")
    monkeypatch.chdir(tmp_path)
    found = list_files(source("in/both.paths"))
    assert [shard.name for shard in found] == ["in/sub/b.jsonl", f"{bucket}/in/a.jsonl"]
    assert [shard.key for shard in found] == ["sub/b.jsonl", "checkpoints/in/a.jsonl"]
    assert not _is_here(source("in/both.paths"))
    state = watch.state_of(source("in/both.paths"), tmp_path / "seen.sqlite", Job("sources", tmp_path, None))
    assert state["objects"] == 2
    (tmp_path / "in" / "near.paths").write_text("sub/b.jsonl")
    state = watch.state_of(source("in/near.paths"), tmp_path / "seen.sqlite", Job("sources", tmp_path, None))
    assert state["files"] == 1 and state["digest"]


def test_what_is_wrong_with_a_list_is_one_sentence(crawl: str, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_bytes(line("of this machine"))
    there = f"{CRAWL}/segments/1/warc/a.jsonl"
    for content, message in {
        f"{there}\n{CRAWL}/none/x.jsonl": "1 of 2 files missing, the first is crawl-data",
        "\n\n": "it is empty",
        f"file://{tmp_path}/secret.jsonl": "secret.jsonl is on another server than the list",
        "http://127.0.0.1:9/x.jsonl": "is on another server than the list",
    }.items():
        put("bad.paths", content.encode())
        with pytest.raises(StorageError, match=rf"ingest.files: crawl: the list {bucket}/bad.paths: .*{message}"):
            list_files(source(f"{bucket}/bad.paths"))
    put("bad.paths", f"{tmp_path}/secret.jsonl".encode())
    with pytest.raises(StorageError, match=r"secret\.jsonl is on another server"):
        list_files(source(f"{bucket}/bad.paths"))
    with pytest.raises(StorageError, match=r"none\.paths cannot be listed"):
        list_files(source(f"{bucket}/none.paths"))


def test_a_server_that_is_away_is_one_sentence_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(reading, "PAUSE", 0.0)
    monkeypatch.setattr(reading, "ATTEMPTS", 2)
    monkeypatch.setattr(reading, "LONGEST_PAUSE", 0.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    job = Job("sources", tmp_path, None)
    said = r"ingest.files: crawl: s3://checkpoints/in/\*: .*connect to the endpoint"
    with pytest.raises(ConnectionError, match=said):
        watch.state_of(source("s3://checkpoints/in/*"), tmp_path / "seen.sqlite", job)
    with pytest.raises(ConnectionError, match=rf"{said}.*tried 2 times"):
        collection.collect(source("s3://checkpoints/in/*"), tmp_path, 2**28, ONE, job)
