"""WARC files read by several processes: the bytes of one process, and no file twice, whoever is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_readers import PAGE, archive, put
from workspace import ROOT

from k2core.corpus.sources import reading
from k2core.corpus.sources.collection import collect
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.reading import KILLER, Reading, units_of
from k2core.corpus.sources.shard import Shard
from k2core.corpus.workers import Corpus, Watch
from k2core.stage import Job
from k2core.storage import read_lines, read_table

FILES, PAGES = 4, 9
SOURCE = FileSource(
    name="crawl", kind="warc", path="in/warc.paths", domain="web", license="x", attribution="y", limit=None
)
STAGE = """
import json, sys
from pathlib import Path
from k2core.corpus.sources.collection import collect
from k2core.corpus.sources.files import FileSource
from k2core.corpus.workers import Corpus
from k2core.stage import Job
source = FileSource(**json.loads(sys.argv[1]))
collect(source, Path("out"), 2**28, Corpus(workers=2), Job("ingest", Path("scratch"), None))
"""


@pytest.fixture
def crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a list of WARC files, of which the third breaks off."""
    for number in range(FILES):
        texts = [PAGE.replace("river", f"river {number}{i}").encode() for i in range(PAGES)]
        pages = [(f"https://r.example/{number}/{i}", text, "text/html") for i, text in enumerate(texts)]
        whole = archive(*pages, first=PAGES * number)
        put(tmp_path / "in" / f"{number}.warc.gz", whole[: len(whole) // 2] if number == 2 else whole)
    (tmp_path / "in" / "warc.paths").write_text("\n".join(f"{number}.warc.gz" for number in range(FILES)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(folder: Path, workers: int) -> dict[str, bytes]:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    collect(SOURCE, folder / "out", 2**28, Corpus(workers=workers), Job("ingest", folder / "scratch", None))
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def test_one_process_and_two_give_the_same_bytes(crawl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = outcome(crawl / "one", 1)
    monkeypatch.setattr(reading, "_FILES", 2)
    assert outcome(crawl / "two", 2) == one
    rows = read_table(crawl / "two" / "out" / "crawl.parquet", ["origin", "date"])
    assert len(rows) == (FILES - 1) * PAGES
    assert rows[0] == {"origin": "https://r.example/0/0", "date": "2025-12-05T10:11:12Z"}
    (fault,) = read_lines(crawl / "two" / "out" / "crawl.set_aside.jsonl")
    assert (Path(fault["shard"]).name, fault["row"], fault["reason"]) == ("2.warc.gz", None, "corrupt")


def test_after_a_kill_no_file_is_read_twice_and_no_process_is_left(crawl: Path) -> None:
    words = [sys.executable, "-c", STAGE, SOURCE.model_dump_json(exclude_defaults=True)]
    stage = subprocess.Popen(words, env={"PYTHONPATH": str(ROOT)})
    finished = crawl / "scratch" / "crawl"
    family: dict[int, psutil.Process] = {}
    while len(list(finished.glob("[!.]*"))) < 1 and stage.poll() is None:
        family |= {child.pid: child for child in psutil.Process(stage.pid).children(recursive=True)}
        time.sleep(0.02)
    stage.kill()
    stage.wait()
    assert len(family) >= 2, "a reader, and what extracts text for it"
    assert psutil.wait_procs(family.values(), timeout=10)[1] == []
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir() if len(path.name) == 16}
    assert 1 <= len(before) < FILES
    (crawl / "clean").mkdir()
    whole = outcome(crawl / "clean", 1)
    assert outcome(crawl, 1) == whole
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_file_that_kills_its_reader_twice_is_set_aside(crawl: Path) -> None:
    shards = [(Shard(name, name, "", None, 1), crawl / "read" / name) for name in ("good", "bad")]
    (crawl / "read" / "good").mkdir(parents=True)
    watch = Watch(crawl / "workers", "crawl-00000")
    for _ in range(2):
        with watch:
            watch.at("bad")
        watch.died()
    units = units_of(SOURCE, shards)
    assert list(units) == ["crawl-00000"]
    assert Reading(SOURCE, units)("crawl-00000", watch) == []
    (fault,) = read_lines(crawl / "read" / "bad" / "set_aside.jsonl")
    assert (fault["shard"], fault["row"], fault["reason"]) == ("bad", None, KILLER)


def test_large_files_are_read_alone_and_small_ones_together() -> None:
    sizes = [10, 2**30, 2**30, *[1000] * 2500, 2**30]
    shards = [(Shard(str(number), str(number), "", None, size), Path()) for number, size in enumerate(sizes)]
    assert [len(unit) for unit in units_of(SOURCE, shards).values()] == [2, 1, 1000, 1000, 501]
