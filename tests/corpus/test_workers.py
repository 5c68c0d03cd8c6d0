"""Shards in several processes: the bytes of one, and what becomes of a document that kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_curation import MINHASH, ONE, corpus, prepared
from test_curation_shards import outcome, rows, sharded

from k2core.corpus import workers
from k2core.corpus.documents import document_schema
from k2core.corpus.steps import tags
from k2core.corpus.tagging import SET_ASIDE
from k2core.corpus.workers import Corpus, Watch, map_shards
from k2core.stage import Job, StageError
from k2core.storage import disk, read_lines, read_table, write_table
from stages import tag

TWO = Corpus(workers=2)
PARAMS = tag.Params(language_characters=500, minhash=MINHASH)


def fatal(shard: str, watch: Watch) -> list[str]:
    """Documents a, b and c of each shard; b of "bad" kills the process, as a fault in C would."""
    done = []
    for id in ("a", "b", "c"):
        if watch.kills(id):
            continue
        watch.at(id)
        if (shard, id) == ("bad", "b"):
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(id)
    return done


def hopeless(shard: str, watch: Watch) -> None:
    """Dies at another document each time, as a process does that gets too little memory."""
    watch.at(f"document {watch.deaths.total()}")
    os.kill(os.getpid(), signal.SIGKILL)


def dead(shard: str, watch: Watch) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def faulty(shard: str, watch: Watch) -> None:
    watch.at("web/7")
    raise ZeroDivisionError("a share of nothing")


def slow(shard: str, watch: Watch) -> None:
    time.sleep(600)


def numbered(shard: str, watch: Watch) -> int:
    if shard == "killing" and not watch.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def three_shards(folder: Path) -> None:
    for part in range(3):
        write_table(folder / f"a-{part:05}.parquet", corpus()[15 * part : 15 * part + 15], document_schema())


def test_two_workers_give_the_bytes_of_one(tmp_path: Path) -> None:
    three_shards(tmp_path / "documents")
    found = []
    for used in (ONE, TWO):
        root = tmp_path / str(used.workers)
        figures = tag.run(PARAMS, used, tmp_path / "documents", root / "out", Job("tag", root / "work", None))
        found.append((figures, {file.name: file.read_bytes() for file in (root / "out").iterdir()}))
    assert found[0] == found[1] and len(found[0][1]) == 3


def test_two_workers_curate_to_the_bytes_of_one(tmp_path: Path) -> None:
    folders = sharded(prepared(tmp_path, rows()), 3, tmp_path / "3")
    assert outcome(folders, tmp_path / "one") == outcome(folders, tmp_path / "two", TWO)


def test_a_document_that_kills_twice_is_left_out_and_the_rest_is_done(tmp_path: Path) -> None:
    results = dict(map_shards(fatal, ["good", "bad", "fine"], TWO, tmp_path))
    assert results == {"good": ["a", "b", "c"], "bad": ["a", "c"], "fine": ["a", "b", "c"]}
    assert Watch(tmp_path, "bad").deaths == {"b": 2}
    assert dict(map_shards(fatal, ["bad"], ONE, tmp_path)) == {"bad": ["a", "c"]}, "another attempt forgot it"


def test_a_process_does_shard_after_shard_until_it_is_killed(tmp_path: Path) -> None:
    shards = [f"shard {number}" for number in range(6)]
    assert len(set(dict(map_shards(numbered, shards, TWO, tmp_path / "calm")).values())) <= 2
    found = dict(workers.watched(numbered, [*shards[:3], "killing", *shards[3:]], 1, tmp_path / "killed"))
    before, after = {found[name] for name in shards[:3]}, {found[name] for name in ("killing", *shards[3:])}
    assert len(before) == len(after) == 1 and before != after


def test_tag_sets_aside_what_killed_its_process(tmp_path: Path) -> None:
    three_shards(tmp_path / "documents")
    name, job = "a-00001.parquet", Job("tag", tmp_path / "work", None)
    killer = corpus()[20]["id"]
    for _ in range(2):
        with Watch(job.scratch / "workers", name) as watch:
            watch.at(killer)
        watch.died()
    figures = tag.run(PARAMS, TWO, tmp_path / "documents", tmp_path / "out", job)
    assert figures["set_aside/a"] == 1 and figures["documents/a"] == 45
    assert read_lines(tmp_path / "out" / f"a-00001{SET_ASIDE}") == [{"id": killer, "reason": tags.KILLED}]
    row = next(row for row in read_table(tmp_path / "out" / name) if row["id"] == killer)
    assert row["words"] == 0


def test_a_shard_that_cannot_be_done_ends_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "DEATHS", 3)
    with pytest.raises(StageError, match=r"one: .*killed \(exit code -9\) 3 times, now at document 2; lower"):
        dict(map_shards(hopeless, ["one"], TWO, tmp_path / "hopeless"))
    with pytest.raises(StageError, match=r"one: its process was killed .* 2 times, at no document; lower"):
        dict(map_shards(dead, ["one"], TWO, tmp_path / "dead"))


def test_a_shorter_id_over_a_longer_one_is_read_as_it_is(tmp_path: Path) -> None:
    with Watch(tmp_path, "one") as watch:
        watch.at("wikipedia/日本国憲法の歴史")
        watch.at("wikipedia/Zürich")
        assert watch.now == "wikipedia/Zürich"
        assert watch.died() == "wikipedia/Zürich"


def full(shard: str, watch: Watch) -> None:
    with open("/dev/full", "wb") as file:
        np.save(file, np.zeros(100_000))


def test_a_full_disk_is_said_as_in_the_stages_own_process(tmp_path: Path) -> None:
    for used in (ONE, TWO):
        with pytest.raises(OSError, match=r"No space left|requested and .* written") as raised:
            dict(map_shards(full, ["one"], used, tmp_path))
        assert "make room" in disk.sentence(raised.value)


def test_a_fault_names_shard_and_document(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^one, document web/7: ZeroDivisionError: a share of nothing$"):
        dict(map_shards(faulty, ["one"], TWO, tmp_path))


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from test_workers import TWO, map_shards, slow\n"
        "if __name__ == '__main__': list(map_shards(slow, ['one', 'two'], TWO, Path('work')))"
    )
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    started = subprocess.Popen(
        [sys.executable, "program.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "work").glob("*.now"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(started.pid).children(recursive=True)
    assert len(children) >= 2
    started.kill()
    started.wait()
    _, left = psutil.wait_procs(children, timeout=30)
    assert not left
