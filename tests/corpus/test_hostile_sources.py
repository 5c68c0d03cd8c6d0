"""Sources that nobody should trust: small files of much content, records and data sets that lack what others have."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import httpx2
import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_readers import PAGE, PARAGRAPHS, Collected, archive, lines, put, source
from workspace import ROOT

from k2core.corpus.signals import code
from k2core.corpus.sources import card, huggingface, set_aside, shard, warc, watch
from k2core.corpus.sources.collection import SEEN
from k2core.corpus.sources.shard import is_temporary
from k2core.stage import Job
from k2core.storage import StorageError

GIB = 2**30
NO_URI = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:9>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"


def record(body: bytes, http: bytes = b"", head: bytes = b"") -> bytes:
    """A response, gzipped as in archives."""
    content = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + http + b"\r\n" + body
    head = head or NO_URI + b"WARC-Target-URI: https://r.example/x\r\nWARC-Identified-Payload-Type: text/html\r\n"
    return gzip.compress(head + b"Content-Length: %d\r\n\r\n" % len(content) + content + b"\r\n\r\n")


def swollen(mib: int) -> bytes:
    """A raw deflate stream of so many MiB of one letter: one block, over and over."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = squeeze.compress(b"a" * 2**24) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return block * (mib // 16) + squeeze.flush()


def chunked(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"


def bombs(folder: Path) -> list[dict[str, Any]]:
    """Sources of a few kB each; read carelessly, each takes more than 3 GiB."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int8()), pa.array(["a" * 15 * 2**20]))
    for name in ("parquet", "hub"):
        (folder / name).mkdir(parents=True)
        table = pa.table({"text": text.cast(pa.dictionary(pa.int8(), pa.string()))})
        schema = pa.schema([("text", pa.string())])
        with pq.ParquetWriter(folder / name / "a.parquet", table.schema, compression="zstd", store_schema=False) as out:
            out.write_table(table)
        assert pq.read_schema(folder / name / "a.parquet") == schema
    pq.write_table(pa.table({"text": ["small"]}), folder / "hub" / "b.parquet")
    whole = record(PAGE.encode())
    put(folder / "gzip.warc.gz", whole + record(GZIP_HEAD + swollen(4096), b"Content-Encoding: gzip\r\n") + whole)
    http = b"Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n"
    put(folder / "chunked.warc.gz", whole + record(chunked(swollen(4096)), http) + whole)
    put(folder / "nested.warc.gz", gzip.compress(GZIP_HEAD + swollen(512)))
    put(folder / "header.warc.gz", whole + GZIP_HEAD + swollen(64))
    put(folder / "line.jsonl.gz", gzip.compress(lines("one")) + GZIP_HEAD + swollen(256))
    own = {"domain": "web", "license": "CC0-1.0", "attribution": "me", "limit": None}
    kinds = {"parquet/a.parquet": "parquet", "hub": "huggingface", "line.jsonl.gz": "jsonl"}
    kinds |= {f"{name}.warc.gz": "warc" for name in ("gzip", "chunked", "nested", "header")}
    return [
        {**own, "name": path.split("/")[0].split(".")[0], "kind": kind, "path": str(folder / path)}
        | ({"limit": 2} if kind == "parquet" else {})
        for path, kind in kinds.items()
    ]


def test_small_files_of_gigabytes_take_no_more_than_is_stated(tmp_path: Path) -> None:
    sources = bombs(tmp_path / "in")
    assert sum(path.stat().st_size for path in (tmp_path / "in").rglob("*") if path.is_file()) < 6 * 2**20
    command = [sys.executable, str(Path(__file__).with_name("limited.py")), str(shard.MEMORY + GIB), str(tmp_path)]
    done = subprocess.run(
        [*command, *map(json.dumps, sources)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parquet"] == [2, []]
    assert found["hub"] == [1, [shard.TOO_LARGE]]
    assert found["gzip"] == found["chunked"] == [1, [shard.TOO_LONG, SEEN]]
    for name in ("line", "header", "nested"):
        documents, (why,) = found[name]
        assert documents == 0 and "no document in 1 shards; set aside 1, most (1) as corrupt" in why


def test_ordinary_encodings_are_decoded(tmp_path: Path) -> None:
    page = PAGE.encode()
    raw = zlib.compress(page)[2:-4]
    made = [
        record(gzip.compress(page), b"Content-Encoding: gzip\r\n"),
        record(zlib.compress(page), b"Content-Encoding: deflate\r\n"),
        record(raw, b"Content-Encoding: deflate\r\n"),
        record(chunked(page), b"Transfer-Encoding: chunked\r\n"),
        record(chunked(gzip.compress(page)), b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
        record(page, b"Content-Encoding: gzip\r\n"),  # what calls itself encoded and is not
    ]
    put(tmp_path / "a.warc.gz", b"".join(made))
    found = Collected(source("warc", tmp_path / "a.warc.gz"), tmp_path)
    texts = [row["text"] for row in found.rows]
    assert len(texts) == 1 and [fault[2] for fault in found.faults] == [SEEN] * 5
    assert all(part in texts[0] for part in PARAGRAPHS)


def test_a_response_without_an_address_is_set_aside(tmp_path: Path) -> None:
    lost = record(PAGE.encode(), head=NO_URI + b"WARC-Identified-Payload-Type: text/html\r\n")
    put(tmp_path / "a.warc.gz", lost + archive(("https://r.example/river", PAGE.encode(), "text/html")))
    found = Collected(source("warc", tmp_path / "a.warc.gz"), tmp_path)
    assert len(found.rows) == 1 and found.faults == [("a.warc.gz", 1, warc.NO_PAGE)]


@pytest.mark.parametrize("lacks", [b"WARC-Record-ID", b"WARC-Date", b"Content-Length", b"WARC-Type", b"HTTP/1.1"])
def test_a_record_that_lacks_a_header_ends_no_stage(tmp_path: Path, lacks: bytes) -> None:
    whole = gzip.decompress(record(PAGE.encode()))
    torn = b"\r\n".join(line for line in whole.split(b"\r\n") if not line.startswith(lacks))
    put(tmp_path / "in" / "a.warc.gz", gzip.compress(torn))
    put(tmp_path / "in" / "b.warc.gz", record(PAGE.encode()))
    found = Collected(source("warc", tmp_path / "in" / "*"), tmp_path)
    assert len(found.rows) + len(found.faults) in (1, 2) and found.rows


def test_a_data_set_with_a_script_or_without_rows_is_one_sentence(tmp_path: Path) -> None:
    put(tmp_path / "script" / "script.py", b"import datasets\n")
    put(tmp_path / "empty" / "train.jsonl", b"")
    for name, why in (("script", "scripts are no longer supported"), ("empty", "a data file without a row")):
        with pytest.raises(StorageError, match=rf"ingest.files: found: .* cannot be loaded \(.*{why}.*\); check"):
            Collected(source("huggingface", tmp_path / name), tmp_path / f"{name}-out")


def test_an_empty_file_among_others_costs_only_itself(tmp_path: Path) -> None:
    put(tmp_path / "set" / "train-00000-of-00002.jsonl", lines("one", "two"))
    put(tmp_path / "set" / "train-00001-of-00002.jsonl", b"")
    found = Collected(source("huggingface", tmp_path / "set"), tmp_path)
    assert found.texts == ["one", "two"] and len(found.faults) == 1


def test_what_a_row_raises_costs_its_shard(tmp_path: Path) -> None:
    def rows() -> Any:
        yield {"text": "one"}
        raise RuntimeError("generator raised StopIteration")

    one = shard.Shard("hf:x/0", "0", "", rows())
    with pytest.raises(shard.Unusable, match="corrupt: generator raised"):
        list(huggingface.read(one, {"text": "text"}))


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    "name", ["ConnectTimeout", "ReadTimeout", "PoolTimeout", "ConnectError", "RemoteProtocolError"]
)
def test_a_hub_that_does_not_answer_may_do_so_later(library: Any, name: str) -> None:
    error = getattr(library, name)("slow")
    assert is_temporary(error)
    wrapped = FileNotFoundError("no such data set")
    wrapped.__cause__ = error
    assert is_temporary(wrapped) and not is_temporary(FileNotFoundError("no such data set"))


@pytest.mark.parametrize("kind", ["jsonl", "huggingface"])
def test_an_offline_hub_is_worth_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    path = "hf://datasets/acme/kb/x.jsonl" if kind == "jsonl" else "acme/kb"
    with pytest.raises(ConnectionError, match=r"(?:ffline|reach).*tried 4 times"):
        Collected(source(kind, path), tmp_path)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    code_ = "import os\nprint(os.name)"
    put(tmp_path / "in" / "a.txt", b"\xef\xbb\xbf" + code_.encode())
    put(tmp_path / "in" / "b.txt", b"\xef\xbb\xbf")
    assert Collected(source("text", tmp_path / "in" / "*.txt"), tmp_path / "t").texts == [code_]
    put(tmp_path / "c.jsonl", json.dumps({"text": "\ufeff" + code_}).encode())
    assert Collected(source("jsonl", tmp_path / "c.jsonl"), tmp_path / "j").texts == [code_]
    pq.write_table(pa.table({"text": ["\ufeff\n" + code_]}), tmp_path / "d.parquet")
    assert Collected(source("parquet", tmp_path / "d.parquet"), tmp_path / "p").texts == [code_]
    assert code.attributes("\ufeffimport os")["parses"]


def test_parquet_gives_its_rows_one_by_one_and_in_order(tmp_path: Path) -> None:
    """Dictionaries that change from one row group, or page, to the next, nulls, numbers, and rows that are long."""
    texts = [None if i % 7 == 0 else f"{i % 50} " * (1 + 20_000 * (i % 97 == 1)) for i in range(3000)]
    table = pa.table({"text": texts, "id": range(3000)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700, dictionary_pagesize_limit=1000)
    found = Collected(source("parquet", tmp_path / "a.parquet", columns={"text": "text", "id": "id"}), tmp_path)
    assert found.texts == [text.strip() for text in texts if text]
    assert [row["id"] for row in found.rows] == [f"found/{i}" for i, text in enumerate(texts) if text]
    assert io.BytesIO(found.content[0]).getbuffer().nbytes > 0


# ---- rows without end


def test_faults_are_counted_and_the_first_ones_kept(tmp_path: Path) -> None:
    most = set_aside.MOST
    rows = b"1\n" * (most + 5) + b'{"text": ""}\n' + b'{"text": "a", "id": "same"}\n' * (most + 3)
    found = Collected(source("jsonl", put(tmp_path / "a.jsonl", rows), columns={"text": "text", "id": "id"}), tmp_path)
    assert found.texts == ["a"]
    assert found.card.faults == {shard.NOT_JSON: most + 5, shard.NO_COLUMN: 1, SEEN: most + 2}
    counted = {entry["reason"]: entry["more"] for entry in found.set_aside if "more" in entry}
    assert counted == {shard.NOT_JSON: 5, SEEN: 2} and len(found.set_aside) == 2 * most + 3
    assert f"set aside {2 * most + 8:,}" in found.card.first_fault()


def test_a_kilobyte_of_millions_of_rows_is_set_aside_in_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    put(folder / "faults.jsonl.bz2", bz2.compress(b"1\n" * 300_000))
    put(folder / "texts.jsonl.bz2", bz2.compress(b'{"text": "a"}\n' * 200_000))
    put(folder / "z.jsonl", lines("one"))
    texts = pa.DictionaryArray.from_arrays(pa.array(numpy.zeros(2_000_000, numpy.int8)), pa.array(["a"]))
    pq.write_table(pa.table({"text": texts}), folder / "rows.parquet", compression="zstd", store_schema=False)
    pq.write_table(pa.table({"text": ["two"]}), folder / "z.parquet")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20_000
    started = time.process_time()
    for kind, pattern, bombs_ in (("jsonl", "*.jsonl*", 2), ("parquet", "*.parquet", 1)):
        found = Collected(source(kind, folder / pattern), tmp_path / kind)
        assert len(found.texts) == 1 and [row for _, row, _ in found.faults] == [None] * bombs_
        assert {reason for *_, reason in found.faults} == {shard.TOO_LARGE}
        assert "rows" in found.set_aside[0]["detail"]
    assert time.process_time() - started < 10


def test_what_is_decompressed_is_bounded_by_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines are no rows, and no rule of rows counts them."""
    monkeypatch.setattr(shard, "BYTES", 2**20)
    put(tmp_path / "in" / "a.jsonl.bz2", bz2.compress(b"\n" * 2**22))
    put(tmp_path / "in" / "b.jsonl.gz", gzip.compress(lines("one") + b"\n" * 2**18))
    put(tmp_path / "in" / "c.jsonl", b"\n" * 2**20 + lines("two"))
    found = Collected(source("jsonl", tmp_path / "in" / "*"), tmp_path)
    assert found.texts == ["one", "two"]
    assert found.faults == [("a.jsonl.bz2", None, shard.TOO_LARGE)]


def test_what_rows_say_of_themselves_is_bounded(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "by": f"license {i}"} for i in range(card.COUNTED + 50)]
    rows += [{"text": "long", "by": "x" * (shard.LONGEST_FIELD + 1)}]
    content = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    columns = {"text": "text", "license": "by", "attribution": "by", "language": "by"}
    found = Collected(source("jsonl", put(tmp_path / "a.jsonl", content), columns=columns), tmp_path)
    assert found.faults == [("a.jsonl", len(rows), shard.TOO_LONG)] and len(found.set_aside[0]["detail"]) < 200
    for counts in (found.card.licenses, found.card.attributions, found.card.languages):
        assert len(counts) == card.COUNTED + 1 and counts[card.OTHERS] == 50
    assert f"and {card.COUNTED - card.MOST + 1:,} more in the table" in card.render([found.card])


# ---- what leads out of a folder


@pytest.mark.parametrize("where", ["url", "file", "up", "folder"])
def test_the_readme_of_a_data_set_names_no_other_place(tmp_path: Path, where: str) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    outside = put(tmp_path / "outside.jsonl", lines("OUTSIDE"))
    named = {
        "url": f"data_files: http://127.0.0.1:{server.server_port}/x.jsonl", "file": f"data_files: {outside}",
        "up": "data_files: ../outside.jsonl", "folder": f"data_dir: {tmp_path}",
    }[where]  # fmt: skip
    put(tmp_path / "set" / "a.jsonl", lines("mine"))
    put(tmp_path / "set" / "README.md", f"---\nconfigs:\n- config_name: default\n  {named}\n---\n".encode())
    with pytest.raises(StorageError, match=r"cannot be loaded .*it names data files outside itself"):
        Collected(source("huggingface", tmp_path / "set"), tmp_path / "out")
    server.shutdown()
    server.server_close()
    assert asked == []


def test_a_readme_may_name_its_own_files(tmp_path: Path) -> None:
    put(tmp_path / "set" / "data" / "a.jsonl", lines("mine"))
    put(tmp_path / "set" / "data" / "b.jsonl", lines("other"))
    readme = "---\nconfigs:\n- config_name: default\n  data_files: data/a.jsonl\n---\n"
    put(tmp_path / "set" / "README.md", readme.encode())
    assert Collected(source("huggingface", tmp_path / "set"), tmp_path / "out").texts == ["mine"]


def test_a_column_that_calls_itself_a_picture_is_not_fetched(tmp_path: Path) -> None:
    import datasets

    secret = put(tmp_path / "secret.txt", b"OUTSIDE")
    picture = datasets.Features({"text": datasets.Value("string"), "picture": datasets.Image()})
    made = datasets.Dataset.from_dict({"text": ["mine"], "picture": [{"path": str(secret), "bytes": None}]}, picture)
    (tmp_path / "set").mkdir()
    made.to_parquet(tmp_path / "set" / "a.parquet")
    found = Collected(source("huggingface", tmp_path / "set"), tmp_path / "out")
    assert found.texts == ["mine"] and not found.faults


def test_links_and_pipes_among_own_files_hold_nothing_up(tmp_path: Path) -> None:
    for kind, pattern in (("text", "*.txt"), ("huggingface", "")):
        folder = tmp_path / kind
        put(folder / "a.txt", b"mine")
        (folder / "zero.txt").symlink_to("/dev/zero")
        os.mkfifo(folder / "pipe.txt")
        (folder / "linked.txt").symlink_to(folder / "pipe.txt")
        (folder / "circle").symlink_to(folder)
        job = Job("sources", tmp_path, None)
        state = watch.state_of(source(kind, folder / pattern), tmp_path / "seen.sqlite", job)
        assert state["files"] == 1 and state["bytes"] == 4
        assert Collected(source(kind, folder / pattern), tmp_path / f"{kind}-out").texts == ["mine"]
