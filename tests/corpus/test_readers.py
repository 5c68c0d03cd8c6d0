"""Sources that are data: real files of every kind, each fault named and in its place, nothing twice, nothing lost."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from s3fs.core import S3File
from workspace import ROOT

from k2core.corpus.documents import COLUMNS
from k2core.corpus.sources import collection, jsonl, reading, shard
from k2core.corpus.sources.card import SourceCard, render
from k2core.corpus.sources.files import FileSource
from k2core.corpus.workers import Corpus
from k2core.recipe import RecipeError, validate
from k2core.stage import Job
from k2core.storage import StorageError, read_table
from stages.ingest import Params

ONE = Corpus(workers=1)
ORIGINAL = {"license": "CC-BY-4.0", "attribution": "the testers", "domain": "web", "name": "found", "limit": None}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAUSE", 0.0)
    monkeypatch.setattr(reading, "LONGEST_PAUSE", 0.0)


def source(kind: str, path: Path | str, **more: Any) -> FileSource:
    return FileSource(**{**ORIGINAL, "kind": kind, "path": str(path), **more})


class Collected:
    """What `collect` made of a source."""

    def __init__(self, config: FileSource, folder: Path) -> None:
        out = folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        self.card: SourceCard = collection.collect(config, out, 2**28, ONE, Job("ingest", folder / "scratch", None))
        self.rows = read_table(out / "found.parquet", COLUMNS)
        self.texts = [row["text"] for row in self.rows]
        lines = (out / "found.set_aside.jsonl").read_text(encoding="utf-8").split("\n")
        self.set_aside = [json.loads(line) for line in lines if line]
        self.faults = [(Path(entry["shard"]).name, entry["row"], entry["reason"]) for entry in self.set_aside]
        self.content = [(out / name).read_bytes() for name in ("found.parquet", "found.set_aside.jsonl")]


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def upload(**objects: bytes) -> Any:
    import boto3

    client = boto3.client("s3")
    for key, content in objects.items():
        client.put_object(Bucket="checkpoints", Key=f"in/{key}.jsonl", Body=content)
    return client


# ---- what each kind gives


def test_jsonl_with_columns_of_its_own(tmp_path: Path) -> None:
    """Licence, origin, attribution and language come from the columns that say so, else from the recipe."""
    rows = [
        {
            "body": " one \n",
            "key": 7,
            "url": "https://a.example",
            "spdx": "MIT",
            "who": "Ada",
            "lang": "en",
            "at": 2025,
        },
        {"body": "two", "key": "b", "spdx": None},
    ]
    path = put(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + b"\n".join(json.dumps(row).encode() for row in rows))
    columns = {"text": "body", "id": "key", "origin": "url", "license": "spdx", "attribution": "who"}
    found = Collected(source("jsonl", path, columns={**columns, "language": "lang", "date": "at"}), tmp_path)
    assert found.rows == [
        {
            "id": "found/7", "text": "one", "domain": "web", "source": "found", "license": "MIT",
            "origin": "https://a.example", "attribution": "Ada", "language": "en", "date": "2025",
        },
        {
            "id": "found/b", "text": "two", "domain": "web", "source": "found", "license": "CC-BY-4.0",
            "origin": f"{path}#2", "attribution": "the testers", "language": "und", "date": "",
        },
    ]  # fmt: skip
    assert found.faults == []


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_files_of_several_members(tmp_path: Path, suffix: str) -> None:
    squeeze = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
    path = put(tmp_path / f"a.jsonl{suffix}", squeeze(lines("one", "two")) + squeeze(lines("three")))
    assert Collected(source("jsonl", path), tmp_path).texts == ["one", "two", "three"]


def test_parquet_and_text_by_pattern_in_order_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2", "a/1"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        pq.write_table(pa.table({"text": [name], "other": [1]}), tmp_path / "in" / f"{name}.parquet")
        put(tmp_path / "in" / f"{name}.txt", f"text {name}".encode())
    monkeypatch.chdir(tmp_path)  # a relative path stays one: no output tells where a machine keeps its files
    found = Collected(source("parquet", "in/**/*.parquet"), tmp_path / "p")
    assert [row["id"] for row in found.rows] == ["found/a/1.parquet/1", "found/b/2.parquet/1"]
    assert [row["origin"] for row in found.rows] == ["in/a/1.parquet#1", "in/b/2.parquet#1"]
    assert Collected(source("text", "in/*/*.txt"), tmp_path / "t").texts == ["text a/1", "text b/2"]


def test_huggingface_dataset_from_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for number in (0, 1):
        table = pa.table({"text": [f"{number} one", "" if number else f"{number} two"], "url": ["u", None]})
        (tmp_path / "set").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "set" / f"train-0000{number}-of-00002.parquet")
    columns = {"text": "text", "origin": "url"}
    found = Collected(source("huggingface", tmp_path / "set", columns=columns), tmp_path)
    assert found.texts == ["0 one", "0 two", "1 one"] and len(list((tmp_path / "scratch" / "found").iterdir())) == 2
    assert found.rows[0]["origin"] == "u" and found.rows[1]["origin"].endswith("set/train/00000-of-00002#2")
    assert found.faults == [("00001-of-00002", 2, shard.NO_TEXT)]
    with pytest.raises(StorageError, match=r"ingest.files: found: .* cannot be loaded .* check its path"):
        Collected(source("huggingface", tmp_path / "set", split="nonsense"), tmp_path / "x")


PARAGRAPHS = [
    "The river rises in the hills above the town and runs for forty miles before it meets the sea at the old harbour.",
    "Barges carried coal and grain along it until the railway came; the towpath is now a walk that people are fond of.",
    "Each spring the meadows along its lower course stand under water, and herons gather there in their hundreds.",
]
PAGE = f"""<html><head><title>A river</title></head><body><nav><a href="/">Home</a> <a href="/buy">Buy now</a></nav>
<article><h1>A river</h1>{"".join(f"<p>{part}</p>" for part in PARAGRAPHS)}</article>
<footer>Cookie settings</footer></body></html>"""


def archive(*pages: tuple[str, bytes, str], compress: bool = True, first: int = 0) -> bytes:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    out = io.BytesIO()
    writer = WARCWriter(out, gzip=compress)
    writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "a test"}))
    for number, (url, body, kind) in enumerate(pages, first):
        http = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.0")
        headers = {"WARC-Record-ID": f"<urn:uuid:{number}>", "WARC-Identified-Payload-Type": kind}
        headers |= {"WARC-Date": "2025-12-05T10:11:12Z"}
        record = writer.create_warc_record(
            url, "response", payload=io.BytesIO(body), http_headers=http, warc_headers_dict=headers
        )
        writer.write_record(record)
    return out.getvalue()


PAGES = [
    ("https://r.example/river", PAGE.encode(), "text/html"),
    ("https://r.example/river.png", b"\x89PNG" * 9, "image/png"),
    ("https://r.example/latin", PAGE.replace("river", "rivière").encode("latin-1"), "text/html"),
    ("https://r.example/nothing", b"<html><body></body></html>", "text/html"),
]


def test_warc_gives_the_text_of_pages_without_what_stands_around_it(tmp_path: Path) -> None:
    found = Collected(source("warc", put(tmp_path / "a.warc.gz", archive(*PAGES))), tmp_path)
    assert [row["origin"] for row in found.rows] == ["https://r.example/river", "https://r.example/latin"]
    assert [row["id"] for row in found.rows] == ["found/0", "found/2"]
    assert [row["date"] for row in found.rows] == ["2025-12-05T10:11:12Z"] * 2
    assert all(part in found.texts[0] for part in PARAGRAPHS) and PARAGRAPHS[1] in found.texts[1]
    assert not any(word in found.texts[0] for word in ("Buy now", "Cookie", "<p>"))
    assert found.faults == [("a.warc.gz", 3, "no web page"), ("a.warc.gz", 5, shard.NO_TEXT)]


@pytest.mark.parametrize("compress", [True, False])
def test_a_torn_warc_is_set_aside_whole(tmp_path: Path, compress: bool) -> None:
    whole = archive(*PAGES[:1], compress=compress)
    name = "b.warc.gz" if compress else "b.warc"
    put(tmp_path / "in" / name, whole[: len(whole) * 3 // 4])
    put(tmp_path / "in" / "a.warc", archive(*PAGES[:1], compress=False))
    put(tmp_path / "in" / "c.warc", b"this is no archive\n" * 9)
    found = Collected(source("warc", tmp_path / "in" / "*"), tmp_path)
    assert len(found.rows) == 1
    assert found.faults == [(name, None, shard.CORRUPT), ("c.warc", None, shard.CORRUPT)]


# ---- faults of rows and shards


def test_what_is_said_of_a_row_stays_short_however_its_columns_are_named(tmp_path: Path) -> None:
    row = json.dumps({"x" * 10**6: 1} | {str(number): 1 for number in range(1000)}).encode()
    found = Collected(source("jsonl", put(tmp_path / "a.jsonl", lines("one") + row)), tmp_path)
    (entry,) = found.set_aside
    assert len(entry["detail"]) < 500 and entry["detail"].endswith(", …")


def test_bad_lines_cost_only_themselves(tmp_path: Path) -> None:
    content = [
        lines("one"), b'{"text": "\xff\xfe"}\n', b"\n", b'{"text": "cut', b"\n", b"[1]\n", b'{"txt": "x", "n": 1}\n',
        b'{"text": 3}\n', b'{"text": " "}\n', b'{"text": "\\ud800"}\n', lines("two"), b'{"text": "no newline"}',
    ]  # fmt: skip
    found = Collected(source("jsonl", put(tmp_path / "a.jsonl", b"".join(content))), tmp_path)
    assert found.texts == ["one", "two", "no newline"]
    assert [(row, reason) for _, row, reason in found.faults] == [
        (2, shard.BAD_UTF8), (4, shard.NOT_JSON), (5, shard.NOT_JSON), (6, shard.NO_COLUMN), (7, shard.NO_TEXT),
        (8, shard.NO_TEXT), (9, shard.NOT_JSON),
    ]  # fmt: skip
    assert found.set_aside[3]["detail"] == "no column text (did you mean txt?); it has txt, n"
    assert found.card.documents == 3 and found.card.faults[shard.NO_TEXT] == 2


def test_a_line_of_100_mb_is_passed_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(lines("one") + b'{"text": "')
        for _ in range(100):
            file.write(b"a" * 10**6)
        file.write(b'"}\n' + lines("two"))
    pieces = []
    real = jsonl._lines

    def watched(file: Any) -> Any:
        class Watched:
            def readline(self, size: int) -> bytes:
                pieces.append(len(line := file.readline(size)))
                return line

        return real(Watched())

    monkeypatch.setattr(jsonl, "_lines", watched)
    found = Collected(source("jsonl", path), tmp_path)
    assert found.texts == ["one", "two"] and found.faults == [("a.jsonl.gz", 2, shard.TOO_LONG)]
    assert found.set_aside[0]["detail"] == "more than 16,777,216 bytes" and max(pieces) <= shard.LONGEST + 1


@pytest.mark.parametrize("length", [-1, 0, 1])
def test_the_longest_line_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """Known-wrong: a line at the limit must not swallow the one behind it."""
    for module in (shard, jsonl):
        monkeypatch.setattr(module, "LONGEST", len(lines("twelve")) + length)
    found = Collected(source("jsonl", put(tmp_path / "a.jsonl", lines("twelve", "one"))), tmp_path)
    assert found.texts == (["one"] if length < 0 else ["twelve", "one"])


def test_broken_and_empty_shards_are_set_aside_whole_and_the_rest_finished(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*(f"text {i} {i * 7919}" for i in range(5000))))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for name, content in {
        "a": gzip.compress(lines("first")), "b": whole[:-9], "c": bytes(flipped), "d": b"not gzip at all",
        "e": b"", "f": gzip.compress(b""), "g": gzip.compress(lines("last")),
    }.items():  # fmt: skip
        put(tmp_path / "in" / f"{name}.jsonl.gz", content)
    found = Collected(source("jsonl", tmp_path / "in" / "*.gz"), tmp_path)
    assert found.texts == ["first", "last"]
    reasons = [shard.CORRUPT] * 3 + [shard.EMPTY_SHARD] * 2
    assert found.faults == [(f"{name}.jsonl.gz", None, why) for name, why in zip("bcdef", reasons, strict=True)]


def test_faults_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["one", None, "two"]}), folder / "a.parquet")
    pq.write_table(pa.table({"text": ["x" * 99] * 99}), folder / "b.parquet")
    put(folder / "b.parquet", (folder / "b.parquet").read_bytes()[:-20])
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), folder / "c.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "d.parquet")
    bad = pa.array([b"fine", b"\xff\xff", b"good"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad}), folder / "e.parquet")
    found = Collected(source("parquet", folder / "*"), tmp_path)
    assert found.texts == ["one", "two", "fine", "good"]
    assert found.faults == [
        ("a.parquet", 2, shard.NO_TEXT), ("b.parquet", None, shard.CORRUPT), ("c.parquet", None, shard.NO_COLUMN),
        ("d.parquet", None, shard.EMPTY_SHARD), ("e.parquet", 2, shard.BAD_UTF8),
    ]  # fmt: skip
    assert found.set_aside[2]["detail"] == "no column text; it has body, n"


def test_no_document_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "c.parquet")
    with pytest.raises(
        StorageError, match=r"found: no document in 1 shards; .*c.parquet: no column text; it has body, n"
    ):
        Collected(source("parquet", tmp_path / "c.parquet"), tmp_path)
    with pytest.raises(StorageError, match=r"found: no file is named .*absent"):
        Collected(source("jsonl", tmp_path / "absent*"), tmp_path)


def test_an_id_that_comes_again_is_set_aside(tmp_path: Path) -> None:
    rows = [{"text": "one", "id": "a"}, {"text": "two", "id": "b"}, {"text": "three", "id": "a"}]
    for name, chosen in {"1": rows, "2": rows[:1]}.items():
        put(tmp_path / "in" / f"{name}.jsonl", b"\n".join(json.dumps(row).encode() for row in chosen))
    found = Collected(source("jsonl", tmp_path / "in" / "*", columns={"text": "text", "id": "id"}), tmp_path)
    assert found.texts == ["one", "two"]
    assert found.faults == [("1.jsonl", 3, collection.SEEN), ("2.jsonl", 1, collection.SEEN)]


def test_a_limit_takes_the_first_and_reads_no_further(tmp_path: Path) -> None:
    put(tmp_path / "in" / "1.jsonl", lines("a", "b"))
    put(tmp_path / "in" / "2.jsonl", lines("c") + b"broken\n")
    put(tmp_path / "in" / "3.jsonl", b"broken too")
    found = Collected(source("jsonl", tmp_path / "in" / "*", limit=3), tmp_path)
    assert found.texts == ["a", "b", "c"] and found.faults == []
    assert len(list((tmp_path / "scratch" / "found").iterdir())) == 2


# ---- a bucket, and its faults


def test_a_bucket_is_read_like_a_folder(bucket: str, tmp_path: Path) -> None:
    upload(**{"x/1": lines("one", "two"), "y/2": lines("three")})
    found = Collected(source("jsonl", f"{bucket}/in/**/*.jsonl"), tmp_path)
    assert found.texts == ["one", "two", "three"]
    assert found.rows[2]["id"] == "found/y/2.jsonl/1" and found.rows[2]["origin"] == f"{bucket}/in/y/2.jsonl#1"
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["four"]}), table)
    upload(table=table.getvalue())
    assert Collected(source("parquet", f"{bucket}/in/table.jsonl"), tmp_path / "p").texts == ["four"]


def test_an_object_that_vanished_is_set_aside(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = upload(a=lines("one"), b=lines("two"), c=lines("three"))
    real = collection.list_files

    def listed(config: FileSource) -> list[shard.Shard]:
        shards = real(config)
        client.delete_object(Bucket="checkpoints", Key="in/b.jsonl")
        return shards

    monkeypatch.setattr(collection, "list_files", listed)
    found = Collected(source("jsonl", f"{bucket}/in/*"), tmp_path)
    assert found.texts == ["one", "three"] and found.faults == [("b.jsonl", None, shard.VANISHED)]


class Broken:
    """Makes reads of objects whose path ends in `key` fail after the first `after` rows, `times` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, key: str, times: int, error: Exception) -> None:
        self.opened: list[str] = []
        self.left = times
        real = jsonl._lines

        def opened(which: shard.Shard) -> Any:
            self.opened.append(which.key)
            self.now = which.key
            return shard.open_shard(which)

        def broken(file: Any) -> Any:
            for number, line in enumerate(real(file)):
                if self.now == key and number == 1 and self.left:
                    self.left -= 1
                    raise error
                yield line

        monkeypatch.setattr(jsonl, "open_shard", opened)
        monkeypatch.setattr(jsonl, "_lines", broken)


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), OSError(shard.errno.EBUSY, "Slow Down")])
def test_an_error_in_mid_read_is_tried_again_from_the_start_of_the_shard(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    upload(a=lines("one"), b=lines("two", "three"), c=lines("four"))
    clean = Collected(source("jsonl", f"{bucket}/in/*"), tmp_path / "clean")
    broken = Broken(monkeypatch, "b.jsonl", 2, error)
    found = Collected(source("jsonl", f"{bucket}/in/*"), tmp_path / "broken")
    assert broken.opened == ["a.jsonl", "b.jsonl", "b.jsonl", "b.jsonl", "c.jsonl"]
    assert found.texts == ["one", "two", "three", "four"] and found.content == clean.content


def test_a_full_disk_is_no_corrupt_source(small_disk: Path, tmp_path: Path) -> None:
    """300, 5,400 and 300 rows of random words, a disk of 4 MB: once 600 documents and status 0."""
    words = random.Random(0)
    for name, count in (("a", 300), ("b", 5400), ("c", 300)):
        texts = [" ".join(f"{words.getrandbits(64):016x}" for _ in range(90)) for _ in range(count)]
        put(tmp_path / "in" / f"{name}.jsonl", lines(*texts))
    entry = {**ORIGINAL, "kind": "jsonl", "path": str(tmp_path / "in" / "*")}
    recipe = {"corpus": {"workers": 1}, "ingest": {**_without_built_in(), "files": [entry]}}
    (small_disk / "params.yaml").write_text(json.dumps(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "stages.ingest", "--out", "data/documents", "--metrics", "metrics/ingest.json"],
        cwd=small_disk, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "K2_TRACKING": "off"},
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "ingest: cannot write work/ingest/" in done.stderr and "No space left on device" in done.stderr
    assert not (small_disk / "data" / "documents").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_mount_lost_while_a_file_is_read_is_no_corrupt_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in "abc":
        put(tmp_path / "in" / f"{name}.jsonl", lines("one", "two"))
    config = source("jsonl", tmp_path / "in" / "*")
    Broken(monkeypatch, "b.jsonl", reading.ATTEMPTS, OSError(number, os.strerror(number)))
    with pytest.raises(ConnectionError, match=rf"b\.jsonl .*{os.strerror(number)}, tried 4 times"):
        Collected(config, tmp_path)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.EDQUOT])
def test_what_the_machine_refuses_is_no_corrupt_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    put(tmp_path / "in" / "b.jsonl", lines("one", "two"))
    Broken(monkeypatch, "b.jsonl", 1, OSError(number, os.strerror(number)))
    with pytest.raises(OSError, match=os.strerror(number)) as raised:
        Collected(source("jsonl", tmp_path / "in" / "*"), tmp_path)
    assert raised.value.errno == number


def test_a_fault_of_writing_is_not_tried_again_as_one_of_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "in" / "b.jsonl", lines("one"))

    def broken(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(reading, "_document", broken)
    with pytest.raises(OSError, match="Input/output error") as raised:
        Collected(source("jsonl", tmp_path / "in" / "*"), tmp_path)
    assert not isinstance(raised.value, ConnectionError)


def test_a_file_name_steers_no_terminal_and_breaks_no_table(tmp_path: Path) -> None:
    name = b"\x1b]0;owned\x07\xff.jsonl"
    put(tmp_path / "in" / os.fsdecode(name), lines("one") + b"broken\n")
    found = Collected(source("jsonl", tmp_path / "in" / "*"), tmp_path)
    assert found.texts == ["one"] and r"\udcff" in found.rows[0]["id"]
    said = render([found.card]) + found.card.first_fault() + found.set_aside[0]["shard"]
    assert "\x1b" not in said and said.count(r"\x1b]0;owned\x07\udcff.jsonl") == 3


def test_an_answer_shorter_than_asked_for_is_asked_for_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(a=lines("one", "two"), b=lines("three", "four"))
    real, answers = S3File._fetch_range, itertools.count()

    def short(file: Any, start: int, end: int) -> bytes:
        content: bytes = real(file, start, end)
        return content[: len(content) // 2] if next(answers) < 2 else content

    monkeypatch.setattr(S3File, "_fetch_range", short)
    found = Collected(source("jsonl", f"{bucket}/in/*"), tmp_path)
    assert found.texts == ["one", "two", "three", "four"] and not found.faults and next(answers) == 4


def test_a_lasting_error_ends_the_stage_for_another_try_that_reads_only_what_is_missing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage must not be cached as a smaller corpus: the rest is finished, and status 75 asks for another try."""
    upload(a=lines("one"), b=lines("two", "three"), c=lines("four"))
    clean = Collected(source("jsonl", f"{bucket}/in/*"), tmp_path / "clean")
    broken = Broken(monkeypatch, "b.jsonl", reading.ATTEMPTS, ConnectionResetError("reset by peer"))
    with pytest.raises(ConnectionError, match=r"1 of 3 shards .*b.jsonl \(reset by peer, tried 4 times\).*2 that"):
        Collected(source("jsonl", f"{bucket}/in/*"), tmp_path)
    assert broken.opened[-1] == "c.jsonl"
    broken.opened.clear()
    found = Collected(source("jsonl", f"{bucket}/in/*"), tmp_path)
    assert broken.opened == ["b.jsonl"] and found.content == clean.content


def test_a_kill_in_mid_shard_counts_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        put(tmp_path / "in" / f"{name}.jsonl", lines(f"{name} one", f"{name} two") + b"broken\n")
    config = source("jsonl", tmp_path / "in" / "*")
    clean = Collected(config, tmp_path / "clean")
    broken = Broken(monkeypatch, "b.jsonl", 1, KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        Collected(config, tmp_path)
    found = Collected(config, tmp_path)
    assert broken.opened == ["a.jsonl", "b.jsonl", "b.jsonl", "c.jsonl"] and found.content == clean.content
    put(tmp_path / "in" / "a.jsonl", lines("a new"))  # a shard that changed is another shard
    assert Collected(config, tmp_path).texts[0] == "a new" and len(found.faults) == 3


def test_a_bucket_without_access_is_one_sentence(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"found: .*no-such-bucket"):
        Collected(source("jsonl", "s3://no-such-bucket/in/*"), tmp_path)


# ---- the recipe and the card


def test_keys_that_do_not_fit_the_kind_are_refused() -> None:
    entry = {**ORIGINAL, "kind": "warc", "path": "a.warc", "columns": {"text": "body"}}
    with pytest.raises(RecipeError, match=r"columns: a source of kind warc has none"):
        validate(FileSource, entry, "r.yaml: ingest.files")
    with pytest.raises(RecipeError, match="`text` must be among them"):
        validate(FileSource, {**entry, "kind": "jsonl", "columns": {"id": "id"}}, "r.yaml: ingest.files")
    for name in ("wikipedia", "twice"):
        files = [{**ORIGINAL, "kind": "warc", "path": "a.warc", "name": name}] * (1 if name == "wikipedia" else 2)
        with pytest.raises(ValueError, match=f"two sources are named {name}"):
            Params.model_validate({**_without_built_in(), "files": files})


def _without_built_in() -> dict[str, Any]:
    return {
        "shard_characters": 10**6,
        "wikipedia": {"limit": 0, "translations": {}},
        "python": {"limit": 0, "packages": [], "max_characters": 4000},
        "package_docs": {"limit": 0, "max_characters": 3000},
        "mathematics": {"limit": 0, "tasks": ["gcd"], "seed": 0},
    }


def test_the_stage_writes_tables_and_a_card_that_says_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.ingest import run

    monkeypatch.chdir(tmp_path)
    put(tmp_path / "a.jsonl", lines("one", "two") + b"broken\n")
    files = [
        {**ORIGINAL, "kind": "jsonl", "path": "a.jsonl", "language": "en"},
        {**ORIGINAL, "kind": "jsonl", "path": "nowhere.jsonl", "name": "left_out", "limit": 0},
    ]
    content = {**_without_built_in(), "files": files}
    content["mathematics"] = {"limit": 3, "tasks": ["gcd"], "seed": 0}
    cards = []
    for attempt in ("first", "second"):
        job = Job("ingest", tmp_path / attempt, None)
        figures = run(Params.model_validate(content), ONE, tmp_path / "data", job)
        cards.append((tmp_path / "data" / "CARD.md").read_text())
    assert figures["documents"] == 5 and figures["documents/found"] == 2 and figures["set_aside/found"] == 1
    assert "set_aside/mathematics" not in figures
    assert cards[0] == cards[1] and str(tmp_path) not in cards[0]
    for part in (
        "| found | web | jsonl | 2 | 6 | 1 |",
        "- licences (documents): CC-BY-4.0 (2)",
        "- attribution (documents): the testers (2)",
        "- languages (documents): en (2)",
        "- set aside as not a JSON object: 1, the first a.jsonl, row 3: ",
        "| mathematics | math | built in | 3 |",
    ):
        assert part in cards[0]


def test_a_card_names_the_most_frequent_and_counts_the_rest() -> None:
    card = SourceCard("many", "jsonl", "in/*", "web")
    for number in range(20):
        card.add({"text": "x", "license": "MIT", "attribution": f"author {number:02d}", "language": "en"})
    assert "author 00 (1); " in render([card]) and "author 11 (1); and 8 more in the table" in render([card])
