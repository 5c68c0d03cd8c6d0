"""Files are whole or absent; digests equal DVC's; faults are named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from workspace import Workspace

from k2core.storage import StorageError, dvc_md5, publish, read_table, read_tables, write_json, write_table

SCHEMA = pa.schema([("id", pa.string()), ("score", pa.float64())])


def test_publish_shows_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with pytest.raises(ZeroDivisionError), publish(target) as scratch:
        scratch.mkdir()
        (scratch / "half").write_text("x")
        raise ZeroDivisionError
    assert not target.exists()
    with publish(target) as scratch:
        assert not scratch.exists(), "what the failed attempt left is removed"
        scratch.mkdir()
        (scratch / "whole").write_text("y")
    assert [file.name for file in target.iterdir()] == ["whole"]
    with publish(target) as scratch:
        scratch.write_text("a file replaces the folder")
    assert target.is_file()
    with pytest.raises(FileNotFoundError, match="nothing was written"), publish(tmp_path / "none"):
        pass


def test_digests_are_those_of_dvc(toy: Workspace) -> None:
    folder = toy.root / "data" / "tree"
    (folder / "b" / "ü").mkdir(parents=True)
    for name, text in {"z": "1", "b/a": "2", "b/ü/ö": "3", "A": ""}.items():
        (folder / name).write_text(text)
    (toy.root / "data" / "file").write_text("text")
    (toy.root / ".gitignore").write_text("")
    toy.run("dvc", "add", "data/tree", "data/file")
    for name in ("tree", "file"):
        recorded = yaml.safe_load((toy.root / "data" / f"{name}.dvc").read_text())["outs"][0]["md5"]
        assert dvc_md5(toy.root / "data" / name) == recorded
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        dvc_md5(toy.root / "absent")


def test_tables_round_trip_with_equal_bytes(tmp_path: Path) -> None:
    rows = [{"id": "a", "score": 0.5}, {"id": "b", "score": None}]
    assert write_table(tmp_path / "one.parquet", rows, SCHEMA) == 2
    write_table(tmp_path / "two.parquet", iter(rows), SCHEMA)
    assert read_table(tmp_path / "one.parquet") == rows
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert read_table(tmp_path / "one.parquet", ["id"]) == [{"id": "a"}, {"id": "b"}]
    assert [name for name, _ in read_tables(tmp_path)] == ["one.parquet", "two.parquet"]


def test_faults_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [{"id": "a", "score": 1.0}], SCHEMA)
    with pytest.raises(StorageError, match="no column text; it has id, score"):
        read_table(tmp_path / "t.parquet", ["text"])
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StorageError, match=r"t\.parquet: not a readable Parquet file"):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(StorageError, match="no such table"):
        read_table(tmp_path / "absent.parquet")
    with pytest.raises(StorageError, match="no Parquet files"):
        list(read_tables(tmp_path / "empty"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
