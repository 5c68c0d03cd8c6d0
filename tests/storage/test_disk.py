"""Faults of the machine are told apart from faults of files, whoever raises them."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2core.llm.cache import ReplayCache
from k2core.model.files import read_tensors
from k2core.storage import StorageError, publish, read_table, write_text
from k2core.storage.disk import of_the_machine, sentence


def test_a_full_disk_is_known_from_every_library(small_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models

    def sqlite() -> None:
        with sqlite3.connect(small_disk / "a.sqlite") as database:
            database.execute("CREATE TABLE a (b)")
            database.executemany("INSERT INTO a VALUES (?)", [("x" * 10_000,)] * 2000)

    words = {f"{number:0100d}": number for number in range(60_000)}
    for write in (
        lambda: (small_disk / "plain").write_bytes(b"0" * 2**23),
        lambda: save_file({"a": torch.zeros(2**21)}, small_disk / "a.safetensors"),
        lambda: pq.write_table(pa.table({"a": [os.urandom(2**23)]}), small_disk / "a.parquet"),
        lambda: Tokenizer(models.WordLevel(words, unk_token="0" * 100)).save(str(small_disk / "a.json")),
        sqlite,
    ):
        with pytest.raises(Exception) as raised:
            write()
        assert of_the_machine(raised.value), raised.value
        assert "No space left on device; make room" in sentence(raised.value)
        for file in small_disk.iterdir():
            file.unlink()


def test_what_is_published_is_named_when_the_disk_is_full(small_disk: Path) -> None:
    with pytest.raises(OSError) as raised:
        write_text(small_disk / "deep" / "a.txt", "x" * 2**23)
    assert sentence(raised.value).startswith(f"cannot write {small_disk}/deep/a.txt: No space left on device")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EDQUOT, errno.EMFILE])
def test_readers_do_not_call_a_sound_file_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def lost(*_: object) -> None:
        raise OSError(number, os.strerror(number), "there")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", lost)
    monkeypatch.setattr("k2core.model.files.load_file", lost)
    for read in (read_table, read_tensors):
        with pytest.raises(OSError) as raised:
            read(tmp_path / "a")
        assert os.strerror(number) in sentence(raised.value) and "there" in sentence(raised.value)


def test_other_errors_are_no_faults_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(b"no table" * 100)
    for error in (OSError("zlib inflate failed"), FileNotFoundError(errno.ENOENT, "no", "x"), ValueError("28")):
        assert not of_the_machine(error) and not sentence(error)
    with pytest.raises(StorageError, match="not a readable Parquet file"):
        read_table(tmp_path / "torn")
    with pytest.raises(StorageError, match="not a readable replay cache"):
        ReplayCache(tmp_path / "torn")


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    """safetensors and tempfile make files that nobody else can read, and another user could not serve them."""
    before = os.umask(0o027)
    try:
        with publish(tmp_path / "model") as scratch:
            (scratch / "parts").mkdir(parents=True, mode=0o700)
            for name in ("weights", "parts/config"):
                (scratch / name).touch(mode=0o600)
        with publish(tmp_path / "file") as scratch:
            scratch.touch(mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
    assert modes == {"model": "0o750", "parts": "0o750", "weights": "0o640", "config": "0o640", "file": "0o640"}
